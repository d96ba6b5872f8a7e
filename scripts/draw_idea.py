"""Draw the figures of docs/idea.md. The maps in them are computed with the library, not painted."""

from pathlib import Path

import torch
from canvas import ATTENTION, CONVOLUTION, HEADS, MUTED, NEGATIVE, SHARED, Canvas, blend
from torch import Tensor

from acmix.ops.decompositions import attention_two_stage, conv2d_two_stage, shift

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"

HEART = torch.tensor(
    [
        [float(pixel) for pixel in row]
        for row in ["0110110", "1111111", "1111111", "1111111", "0111110", "0011100", "0001000"]
    ]
)
EDGES = torch.tensor([[-1.0, -2.0, -1.0], [-2.0, 12.0, -2.0], [-1.0, -2.0, -1.0]]) / 12
N, D = 4, 3
MIDDLE = 19.7  # of the tiles in the first two figures


def contrast(values: Tensor) -> Tensor:
    """Values in [-1, 1] as they are shown: small ones made visible."""
    return values.sign() * values.abs().sqrt()


def draw_convolution() -> Canvas:
    page = Canvas(100, 42)
    page.tile(1.5, MIDDLE - 5.6, HEART, 1.6)
    page.text(7.1, MIDDLE + 7.8, "$x$", size=11)
    page.arrow((13.6, MIDDLE), (17, MIDDLE))
    note = "nine pointwise projections:\nall of the weights, no neighbours"
    page.stage(17.6, 1, 29.6, 40, title="Stage I", note=note, color=SHARED)
    page.arrow((47.8, MIDDLE), (51.2, MIDDLE))
    note = "shift each by its kernel position, add:\nno weights; zeros enter (grey)"
    page.stage(51.8, 1, 29.6, 40, title="Stage II", note=note, color=CONVOLUTION)
    for p in range(3):
        for q in range(3):
            projected = EDGES[p, q] * HEART
            x, y = 19.1 + 9.8 * q, 5.8 + 9.8 * p
            page.tile(x, y, contrast(projected), 1.0)
            page.text(x + 3.5, y + 8.2, f"$K_{{{p},{q}}}\\,x$", size=7.5, color=MUTED)
            outside = shift(torch.ones_like(HEART), p - 1, q - 1) == 0
            page.tile(x + 34.2, y, contrast(shift(projected, p - 1, q - 1)), 1.0, grey=outside)
            offset = f"({p - 1:+d}, {q - 1:+d})".replace("+0", "0").replace("-", "\N{MINUS SIGN}")
            page.text(x + 37.7, y + 8.2, offset, size=7.5, color=MUTED)
    page.arrow((82, MIDDLE), (86, MIDDLE))
    result = conv2d_two_stage(HEART[None, None], EDGES[None, None], padding=1)[0, 0]
    page.tile(87, MIDDLE - 5.6, contrast(result), 1.6)
    page.text(92.6, MIDDLE + 7.8, "$y$", size=11)
    return page


def attention_of_the_heart(query: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Attention that looks for near pixels of equal value: q, k, the weights of one pixel, the output."""
    axis = torch.linspace(-1, 1, 7)
    y, x = axis[:, None].expand(7, 7), axis.expand(7, 7)
    features = torch.stack([HEART, y, x, y * y + x * x, torch.ones(7, 7)])
    same, near = 3.0, 3.5
    w_q, w_k, w_v = torch.zeros(3, 4, 5)
    w_q[0, 0], w_q[1, 1], w_q[2, 2], w_q[3, 4] = 2 * same, 4 * near, 4 * near, -2 * near
    w_k[0, 0], w_k[1, 1], w_k[2, 2], w_k[3, 3] = 1, 1, 1, 1
    w_v[0, 0] = 1
    out = attention_two_stage(features[None], w_q, w_k, w_v, num_heads=1)[0, 0]
    q, k = (torch.einsum("oc,chw->ohw", w, features) for w in (w_q, w_k))
    logits = torch.einsum("d,dhw->hw", q[:, query[0], query[1]], k) / 2
    return q, k, logits.flatten().softmax(0).view(7, 7), out


def draw_attention() -> Canvas:
    page = Canvas(100, 42)
    query = (2, 1)
    q, k, weights, out = attention_of_the_heart(query)
    page.tile(1.5, MIDDLE - 5.6, HEART, 1.6)
    page.text(7.1, MIDDLE + 7.8, "$x$", size=11)
    page.arrow((13.6, MIDDLE), (17, MIDDLE))
    note = "pointwise: all of the\nweights, no neighbours"
    page.stage(17.6, 1, 17.8, 40, title="Stage I", note=note, color=SHARED)
    for name, shown, y in (("q", q[1] / q[1].abs().max(), 5.4), ("k", k[1], 15.4), ("v", HEART, 25.4)):
        page.tile(19.6, y, shown * 0.8, 1.2, colors=(SHARED, NEGATIVE))
        page.text(31.6, y + 4.2, f"${name} = W_{name}\\,x$", size=8)
    note = "each pixel weighs all pixels, then sums their values:\nnothing to learn here"
    page.stage(39.6, 1, 41.8, 40, title="Stage II", note=note, color=ATTENTION)
    page.arrow((36, 9.6), (42.6, MIDDLE - 3))
    page.arrow((36, MIDDLE), (42.6, MIDDLE))
    page.arrow((36, 29.6), (60.6, MIDDLE + 2.2), curve="angle,angleA=0,angleB=90,rad=8")
    heaviest = weights.max()
    page.tile(43.6, MIDDLE - 5.6, weights / heaviest, 1.6, colors=(ATTENTION, NEGATIVE))
    page.mark(43.6, MIDDLE - 5.6, query, 1.6)
    page.text(49.2, MIDDLE - 11.4, "weights of pixel $i$", size=8.5, color=MUTED)
    page.text(49.2, MIDDLE - 8.4, "$\\mathrm{softmax}_j\\,(q_i \\cdot k_j\\,/\\,\\sqrt{D})$", size=9)
    page.text(60.6, MIDDLE, "$\\times\\; v_j$", size=11)
    page.tile(66.4, MIDDLE - 5.6, weights * HEART / heaviest, 1.6, colors=(ATTENTION, NEGATIVE))
    page.text(72, MIDDLE - 11.4, "summed over $j$:", size=8.5, color=MUTED)
    page.text(72, MIDDLE - 8.4, "one value for pixel $i$", size=8.5, color=MUTED)
    page.arrow((78.4, MIDDLE), (86, MIDDLE))
    page.tile(87, MIDDLE - 5.6, out, 1.6)
    page.mark(87, MIDDLE - 5.6, query, 1.6)
    page.text(92.6, MIDDLE + 7.8, "$y$", size=11)
    return page


def bar(page: Canvas, x: float, y: float, order: list[int], step: float = 1.0) -> None:
    """One channel a stripe, coloured by the head or the kernel set that made it."""
    for row, n in enumerate(order):
        page.rectangle(x, y + row * step, 3, step, fill=blend(HEADS[n], 0.85), edge="white", line=0.4)


BLOCKS = [n for n in range(N) for _ in range(D)]
STRIPES = [n for _ in range(D) for n in range(N)]


def draw_acmix() -> Canvas:
    page = Canvas(100, 56)
    page.tile(1.5, 24.5, HEART, 1.0)
    page.text(5, 34, "$x$", size=11)
    page.arrow((9.2, 28), (12.4, 28))
    note = "three pointwise projections,\ncomputed once for both paths"
    page.stage(13, 12, 22, 32, title="Stage I", note=note, color=SHARED)
    for index, name in enumerate("qkv"):
        x = 16.5 + 6 * index
        page.text(x + 1.5, 18, f"${name}$", size=10)
        bar(page, x, 20, BLOCKS, step=1.4)
    page.text(24, 47, "colour: the head, or kernel set, n", size=8.5, color=MUTED)
    note = "heads one after the other: channel $n\\,D + c$"
    page.stage(40, 1, 42, 25, title="Stage II-a: attention", note=note, color=ATTENTION)
    page.box(44, 8.5, 18, 9, "softmax attention,\nhead by head,\nK x K window", color=ATTENTION)
    bar(page, 72, 6.6, BLOCKS)
    page.arrow((62.6, 13), (71.2, 13))
    note = "kernel sets interleaved: channel $c\\,N + n$"
    page.stage(40, 30, 42, 25, title="Stage II-b: convolution", note=note, color=CONVOLUTION)
    page.box(42, 37.5, 8, 9, "mix\n3N to k·k\nmaps", color=CONVOLUTION)
    for p in range(3):
        for q in range(3):
            page.rectangle(52.6 + 2.1 * q, 38.9 + 2.1 * p, 1.8, 1.8, fill=blend(CONVOLUTION, 0.5), edge="none")
    page.box(61.2, 37.5, 9, 9, "shift, sum:\nN sets of\nkernels", color=CONVOLUTION)
    bar(page, 74.4, 35.6, STRIPES)
    page.arrow((50.6, 42), (52.2, 42))
    page.arrow((59.2, 42), (60.6, 42))
    page.arrow((70.8, 42), (73.8, 42))
    page.arrow((35.6, 24), (43.4, 14), curve="arc3,rad=-0.15")
    page.arrow((35.6, 32), (41.4, 41), curve="arc3,rad=0.15")
    page.arrow((75.6, 13), (84.4, 13))
    page.arrow((78, 42), (84.4, 42))
    page.text(86.4, 13, "$\\times\\,\\alpha$", size=12, color=ATTENTION)
    page.text(86.4, 42, "$\\times\\,\\beta$", size=12, color=CONVOLUTION)
    page.arrow((87.4, 15.4), (90.2, 25.6))
    page.arrow((87.4, 39.6), (90.2, 30.4))
    page.text(90.8, 28, "$+$", size=15)
    page.arrow((92.4, 28), (94.6, 28))
    page.rectangle(95.2, 22, 3, 12, fill=blend(MUTED, 0.5), edge="none")
    page.text(96.7, 36.4, "$y$", size=11)
    return page


def kernels(page: Canvas, x: float, y: float, noise: float, cell: float, seed: int = 0) -> None:
    """Nine kernels 3 x 3, each a shift, some way off from it."""
    generator = torch.Generator().manual_seed(seed)
    for i in range(9):
        kernel = torch.eye(9)[i].view(3, 3) + noise * torch.randn(3, 3, generator=generator)
        left, top = x + (i % 3) * 4 * cell, y + (i // 3) * 4 * cell
        page.tile(left, top, kernel.clamp(-1, 1), cell, colors=(CONVOLUTION, NEGATIVE))


def draw_kernels() -> Canvas:
    page = Canvas(100, 33)
    panels = (
        ("fixed", "one set, D x 9 x 3 x 3, frozen:\nshifting, written as a convolution", 0.0),
        ("learnable", "the same shape and start,\nfree to leave it", 0.3),
        ("full", "N sets, C x 9 x 3 x 3:\nN outputs where one stood", 0.3),
    )
    for index, (title, note, noise) in enumerate(panels):
        x = 1.5 + 33 * index
        page.stage(x, 1, 31, 31, title=title, note=note, color=CONVOLUTION)
        if title == "full":
            for n in range(N):
                kernels(page, x + 5 + 11.4 * (n % 2), 5.2 + 10.2 * (n // 2), noise, 0.8, seed=n)
        else:
            kernels(page, x + 7.4, 6.6, noise, 1.5)
    return page


def draw_order() -> Canvas:
    page = Canvas(100, 21)
    page.text(13, 3, "channel", size=8.5, color=MUTED, align="right")
    page.text(13, 8, "attention", color=ATTENTION, align="right", bold=True)
    page.text(13, 15.6, "convolution", color=CONVOLUTION, align="right", bold=True)
    for channel in range(N * D):
        x = 15 + 7 * channel
        page.text(x + 3.3, 3, str(channel), size=8.5, color=MUTED)
        for y, n, c in ((5.4, channel // D, channel % D), (13, channel % N, channel // N)):
            page.rectangle(x, y, 6.6, 5.2, fill=blend(HEADS[n], 0.35), edge="none")
            page.text(x + 3.3, y + 2.6, f"n {n}  c {c}", size=7.5)
        page.text(x + 3.3, 11.8, "$+$", size=9, color=MUTED)
    return page


FIGURES = {
    "idea_convolution": draw_convolution,
    "idea_attention": draw_attention,
    "idea_acmix": draw_acmix,
    "idea_kernels": draw_kernels,
    "idea_order": draw_order,
}


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        draw().save(IMAGES / f"{name}.svg")


if __name__ == "__main__":
    main()
