"""Miss-ratio curves as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from memcachepy.errors import MemcachepyError

PICTURE_SUFFIXES = (".png", ".svg")


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


def plot_curves(
    path: Path, curves: Mapping[str, Sequence[tuple[int, float]]], title: str = ""
) -> None:
    """Draw a line for each name through its points, (memory in bytes, miss ratio).

    Raises:
        MemcachepyError: matplotlib is missing, or the file cannot be written.
    """
    check_picture(path)
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    # The same figures make the same file.
    with matplotlib.rc_context({"svg.hashsalt": "memcachepy"}):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.add_subplot()
        for name, points in curves.items():
            x = [memory_bytes / 2**20 for memory_bytes, _ in sorted(points)]
            y = [miss_ratio for _, miss_ratio in sorted(points)]
            axes.plot(x, y, marker="o", markersize=4, label=name)
        axes.set_xscale("log", base=2)
        axes.set_xticks(
            sorted({point[0] / 2**20 for points in curves.values() for point in points})
        )
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda memory_mb, _at: f"{memory_mb:g}"))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("memory, MB")
        axes.set_ylabel("miss ratio")
        axes.set_title(title)
        axes.grid(alpha=0.3)
        axes.legend()
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
        try:
            figure.savefig(path, metadata=metadata)
        except OSError as error:
            raise MemcachepyError(f"{path}: {error.strerror}") from None
