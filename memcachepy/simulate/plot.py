"""Miss-ratio curves as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memcachepy.errors import MemcachepyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURE_SUFFIXES = (".png", ".svg")
_PANEL_INCHES = (4.5, 3.2)

Curves = Mapping[str, Sequence[tuple[int, float]]]
"""By name, points of memory in bytes and the miss ratio there."""


def check_picture(path: Path) -> None:
    """Before hours of simulation: can a picture be drawn there?

    Raises:
        MemcachepyError: another suffix, or matplotlib is missing.
    """
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise MemcachepyError(f"{path}: a picture is a file {' or '.join(PICTURE_SUFFIXES)}")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MemcachepyError(
            "pictures need the package matplotlib; pip install 'memcachepy[plot]'"
        ) from None


def plot_curves(path: Path, curves: Curves, title: str = "") -> None:
    """Draw a line for each name; the suffix of the file says in which format.

    Raises:
        MemcachepyError: matplotlib is missing, or the file cannot be written.
    """
    check_picture(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    _draw(figure.add_subplot(), curves, title)
    _save(figure, path)


def plot_panels(path: Path, panels: Mapping[str, Curves], columns: int = 3) -> None:
    """As `plot_curves`, but a picture of several charts, each below its title.

    Raises:
        MemcachepyError: matplotlib is missing, or the file cannot be written.
    """
    check_picture(path)
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    size = (_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * rows)
    figure = Figure(figsize=size, layout="constrained")
    for number, (title, curves) in enumerate(panels.items(), 1):
        _draw(figure.add_subplot(rows, columns, number), curves, title)
    _save(figure, path)


def _draw(axes: "Axes", curves: Curves, title: str) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    ticks_mb: set[float] = set()
    for name, points in curves.items():
        x = [memory_bytes / 2**20 for memory_bytes, _ in sorted(points)]
        y = [miss_ratio for _, miss_ratio in sorted(points)]
        axes.plot(x, y, marker="o", markersize=4, label=name)
        ticks_mb.update(x)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(ticks_mb))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda memory_mb, _at: f"{memory_mb:g}"))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("memory, MB")
    axes.set_ylabel("miss ratio")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()


def _save(figure: "Figure", path: Path) -> None:
    import matplotlib

    # The same figures make the same file.
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
    with matplotlib.rc_context({"svg.hashsalt": "memcachepy"}):
        try:
            figure.savefig(path, metadata=metadata)
        except OSError as error:
            raise MemcachepyError(f"{path}: {error.strerror}") from None
