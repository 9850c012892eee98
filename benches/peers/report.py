"""The table and the plot."""

import html
import math
import statistics

from workloads import WORKLOADS

# The shapes and the colours of the peers, for light and dark backgrounds.
SHAPES = {
    "nginx": ("circle", "#0a7d33", "#4cc46f"),
    "haproxy": ("square", "#1f5fbf", "#7db0ff"),
    "envoy": ("diamond", "#a02bb8", "#e08bf0"),
    "caddy": ("triangle", "#0b7f86", "#5cd0d6"),
    "apache": ("cross", "#b3261e", "#ff8a80"),
    "varnish": ("plus", "#8a5a00", "#e0b050"),
}


def median(samples, key="value"):
    return statistics.median(sample[key] for sample in samples)


def ratio(samples, others):
    """The median of the ratios. Both values of a ratio are from the same round."""
    return statistics.median(one["value"] / other["value"] for one, other in zip(samples, others) if other["value"])


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(results, names):
    """A table in Markdown. Each cell has the median, and the ratio to edgeshim in the same rounds."""
    peers = [name for name in names if name != "edgeshim"]
    lines = [
        "| | unit | edgeshim | " + " | ".join(peers) + " | edgeshim ÷ best peer | spread |",
        "|---" * (len(peers) + 5) + "|",
    ]
    for key, by_name in results.items():
        own = by_name.get("edgeshim")
        cells = []
        for name in peers:
            samples = by_name.get(name)
            share = f" ({ratio(samples, own):.2f})" if samples and own else ""
            cells.append(f"{number(median(samples))}{share}" if samples else "–")
        rivals = [name for name in peers if name in by_name]
        best = min(rivals, key=lambda name: median(by_name[name]), default=None)
        against = f"{ratio(own, by_name[best]):.2f} ({best})" if own and best else "–"
        workload = WORKLOADS[key]
        spread = max((max(values) / min(values) - 1 for values in all_values(by_name)), default=0)
        lines.append(
            f"| {key}: {workload.title} | {workload.unit} | {number(median(own)) if own else '–'} | " + " | ".join(cells)
            + f" | {against} | {100 * spread:.0f} % |"
        )
    return "\n".join(lines)


def all_values(by_name):
    return [[max(sample["value"], 1e-9) for sample in samples] for samples in by_name.values()]


def sizes_table(sizes, names):
    """The bytes of the compressed page and of the error page, as the client gets them."""
    names = [name for name in names if name in sizes]
    lines = ["| bytes | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for key, title in (("gzip_bytes", "page of 100 KiB, compressed"), ("page_bytes", "error page")):
        lines.append(f"| {title} | " + " | ".join(str(sizes[name].get(key, "–")) for name in names) + " |")
    return "\n".join(lines)


def marker(shape, x, y):
    size = 5
    points = {
        "diamond": [(0, -6), (6, 0), (0, 6), (-6, 0)],
        "triangle": [(0, -6), (6, 5), (-6, 5)],
    }
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y}" r="{size}"/>'
    if shape == "square":
        return f'<rect x="{x - size:.1f}" y="{y - size}" width="{2 * size}" height="{2 * size}"/>'
    if shape in points:
        return f'<polygon points="{" ".join(f"{x + dx:.1f},{y + dy}" for dx, dy in points[shape])}"/>'
    lines = [(-5, -5, 5, 5), (-5, 5, 5, -5)] if shape == "cross" else [(-6, 0, 6, 0), (0, -6, 0, 6)]
    return "".join(f'<line x1="{x + a:.1f}" y1="{y + b}" x2="{x + c:.1f}" y2="{y + d}"/>' for a, b, c, d in lines)


def plot(results, names, caption):
    """An SVG with one line for each workload. The place of a mark is the peer's value, divided by edgeshim's value."""
    peers = [name for name in names if name in SHAPES]
    rows = [(key, by_name) for key, by_name in results.items() if "edgeshim" in by_name and len(by_name) > 1]
    shares = {key: {name: ratio(by_name[name], by_name["edgeshim"]) for name in peers if name in by_name} for key, by_name in rows}
    every = [share for by_name in shares.values() for share in by_name.values() if share > 0] or [1]
    low, high = math.floor(math.log2(min([*every, 0.9]))), math.ceil(math.log2(max([*every, 1.1])))
    left, width, top, step = 270, 600, 84, 28
    bottom = top + step * len(rows)
    place = lambda share: left + width * (math.log2(max(share, 2.0**low)) - low) / (high - low)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 30} {bottom + 50}" font-family="sans-serif" font-size="13">',
        "<style>",
        ".back{fill:#fff}text{fill:#222}.grid{stroke:#ddd}.one{stroke:#222;stroke-width:2}",
        *(f".{name}{{fill:{light};stroke:{light};stroke-width:2}}" for name, (_, light, _) in SHAPES.items()),
        "@media(prefers-color-scheme:dark){.back{fill:#151515}text{fill:#eee}.grid{stroke:#444}.one{stroke:#eee}",
        *(f".{name}{{fill:{dark};stroke:{dark}}}" for name, (_, _, dark) in SHAPES.items()),
        "}</style>",
        f'<rect class="back" width="{left + width + 30}" height="{bottom + 50}"/>',
        '<text x="16" y="24" font-weight="bold">What a peer needs, divided by what edgeshim needs</text>',
    ]
    for position, name in enumerate(peers):
        x = 24 + 100 * position
        out.append(f'<g class="{name}">{marker(SHAPES[name][0], x, 46)}</g><text x="{x + 12}" y="51">{name}</text>')
    for power in range(low, high + 1):
        x = place(2.0**power)
        label = f"{2**power}" if power >= 0 else f"1/{2**-power}"
        out.append(f'<line class="{"one" if power == 0 else "grid"}" x1="{x:.1f}" y1="{top - 12}" x2="{x:.1f}" y2="{bottom - 8}"/>')
        out.append(f'<text x="{x:.1f}" y="{bottom + 10}" text-anchor="middle">{label}</text>')
    for index, (key, _) in enumerate(rows):
        y = top + step * index + 4
        out.append(f'<text x="16" y="{y + 4}">{key}: {html.escape(WORKLOADS[key].title)}</text>')
        out.extend(f'<g class="{name}">{marker(SHAPES[name][0], place(share), y)}</g>' for name, share in shares[key].items())
    out.append(f'<text x="16" y="{bottom + 36}" font-size="11">1 is edgeshim. Right of 1: the peer needs more. {html.escape(caption)}</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"
