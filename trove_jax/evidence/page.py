"""The frame of an HTML page: one file with its style inside, no network and no script."""

import html
from collections.abc import Mapping, Sequence

from trove_jax.evidence.wording import VERDICT_MARKS

STYLE = """
:root { --ink: #1c1e21; --soft: #5a616b; --line: #dfe3e8; --ground: #f6f7f9; --card: #ffffff;
  --good: #1a7f4b; --good-ground: #e3f4ea; --bad: #b3261e; --bad-ground: #fbe9e7;
  --open: #5a616b; --open-ground: #eceff2; --link: #0b5cad; --code: #f0f2f5; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --soft: #a9b1bb; --line: #363b42; --ground: #15181c; --card: #1e2227;
    --good: #6fd39b; --good-ground: #17382a; --bad: #ff9d94; --bad-ground: #45201d;
    --open: #b8c0ca; --open-ground: #2b3138; --link: #8ec5ff; --code: #272c33; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 860px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 4px 0 6px; }
h2 { font-size: 1.2rem; margin: 36px 0 12px; }
h3 { font-size: 1.05rem; line-height: 1.35; margin: 0; }
p { margin: 8px 0; }
a { color: var(--link); }
.soft { color: var(--soft); }
.small { font-size: .875rem; }
.over { color: var(--soft); font-size: .8125rem; letter-spacing: .04em; }
.strip { display: grid; grid-template-columns: repeat(3, 1fr); gap: 12px; margin: 20px 0 12px; }
.tile { border-radius: 10px; padding: 12px 16px; }
.tile b { font-size: 1.9rem; line-height: 1.1; display: block; }
.supported { color: var(--good); background: var(--good-ground); }
.contradicted { color: var(--bad); background: var(--bad-ground); }
.inconclusive { color: var(--open); background: var(--open-ground); }
.tile.none { opacity: .55; }
.badge { display: inline-block; border-radius: 999px; padding: 2px 11px; font-weight: 600;
  font-size: .875rem; white-space: nowrap; }
.badges { display: flex; flex-wrap: wrap; gap: 4px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 18px 20px; margin: 14px 0; }
.head { display: flex; gap: 14px; align-items: flex-start; justify-content: space-between; }
.id { color: var(--soft); font-weight: 600; margin-right: 6px; }
.list { padding: 4px 20px; }
.row { display: grid; grid-template-columns: 142px 1fr auto; gap: 4px 14px; align-items: baseline;
  padding: 10px 0; color: inherit; text-decoration: none; border-top: 1px solid var(--line); }
.row:first-child { border-top: 0; }
.row:hover span { text-decoration: underline; }
.row .badge { justify-self: start; }
.short { color: var(--soft); font-size: .875rem; text-align: right;
  font-variant-numeric: tabular-nums; }
.finding { font-size: 1.0625rem; }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr));
  gap: 10px 22px; margin: 14px 0 4px; padding: 0; }
.beside dt { color: var(--soft); font-size: .8125rem; }
.beside dd { margin: 2px 0 0; }
figure { margin: 14px 0 4px; }
table .badge { font-size: .8125rem; padding: 1px 9px; }
.date { white-space: nowrap; }
.picture { background: #fff; border-radius: 8px; padding: 6px; }
.picture img { display: block; width: 640px; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { color: var(--soft); font-size: .8125rem; margin-top: 6px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9375rem; }
th, td { text-align: left; padding: 7px 12px 7px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; font-size: .8125rem; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
details { margin: 10px 0 0; }
summary { cursor: pointer; color: var(--link); font-size: .9375rem; }
code, pre { font: .875rem/1.45 ui-monospace, "Liberation Mono", Menlo, monospace; }
code { background: var(--code); border-radius: 5px; padding: 1px 5px; overflow-wrap: anywhere; }
pre { background: var(--code); border-radius: 8px; padding: 12px 14px; margin: 8px 0;
  white-space: pre-wrap; user-select: all; }
pre code { background: none; padding: 0; }
ul { padding-left: 20px; margin: 8px 0; }
footer { margin-top: 40px; color: var(--soft); font-size: .8125rem; }
@media (max-width: 560px) {
  main { padding: 18px 12px 40px; }
  h1 { font-size: 1.4rem; }
  .card { padding: 14px; }
  .strip { gap: 8px; }
  .tile { padding: 10px; font-size: .8125rem; }
  .picture { padding: 2px; margin: 0 -8px; }
  .head { flex-direction: column; gap: 8px; }
  .list { padding: 2px 14px; }
  .row { grid-template-columns: 1fr; }
  .short { text-align: left; }
}
@media print {
  :root { --ground: #fff; }
  body { font-size: 11pt; }
  main { max-width: none; padding: 0; }
  .card, .tile, figure { break-inside: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""


def escape(text: object) -> str:
    """Text as HTML, quotes included."""
    return html.escape(str(text), quote=True)


def page(title: str, body: str) -> str:
    """A whole page.

    Args:
      title: as text.
      body: as HTML, what goes into `<main>`.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def badge(verdict: str, label: str | None = None) -> str:
    """A verdict as a coloured word with its mark, so that colour is not the only sign."""
    text = verdict if label is None else label
    return (
        f'<span class="badge {escape(verdict)}" title="{escape(verdict)}">'
        f"{VERDICT_MARKS[verdict]} {escape(text)}</span>"
    )


def strip(counts: Mapping[str, int]) -> str:
    """The three counts of verdicts, side by side."""
    tiles = []
    for verdict, mark in VERDICT_MARKS.items():
        count = counts.get(verdict, 0)
        faded = "" if count else " none"
        tiles.append(
            f'<div class="tile {verdict}{faded}"><b>{count}</b>{mark} {escape(verdict)}</div>'
        )
    return f'<div class="strip">{"".join(tiles)}</div>'


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: Sequence[int] = ()
) -> str:
    """A table that scrolls sideways when it has to.

    Args:
      headings: as text; none for a table of names and values.
      rows: cells as HTML.
      numeric: positions of the columns that are set to the right.
    """

    def cells(tag: str, values: Sequence[str]) -> str:
        classes = [' class="n"' if i in numeric else "" for i in range(len(values))]
        return "".join(f"<{tag}{c}>{v}</{tag}>" for c, v in zip(classes, values, strict=True))

    head = cells("th", [escape(heading) for heading in headings])
    head = f"<thead><tr>{head}</tr></thead>\n" if headings else ""
    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table>\n{head}<tbody>\n{body}\n</tbody>\n</table></div>'
