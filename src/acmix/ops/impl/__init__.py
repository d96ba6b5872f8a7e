"""The backends. Nothing here is public: the doors in `acmix.ops` choose one and call it."""
