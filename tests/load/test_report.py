"""The table of figures: ratios within rounds, verdicts, and where it is put."""

import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))

import report  # noqa: E402
import scenarios  # noqa: E402
import servers  # noqa: E402


def part(cost_us: float, generator_share: float = 0.5, other_share: float = 0.0) -> dict[str, Any]:
    return {
        "server_cpu_us_per_request": cost_us,
        "generator_cpu_share": generator_share,
        "other_cpu_share": other_share,
    }


def results(**kinds: list[float]) -> dict[str, Any]:
    rounds = [
        {kind: part(cost) for kind, cost in zip(kinds, costs, strict=True)}
        for costs in zip(*kinds.values(), strict=True)
    ]
    machine = dict.fromkeys(
        ("memcached", "memcachepy", "commit", "cpu", "cpu_count", "system", "kernel", "python",
         "compiler"), "x",
    )  # fmt: skip
    scenario = {"name": "get", "title": "get", "bar": 0.85, "goal": 0.8, "rounds": rounds}
    return {
        "machine": machine, "scenarios": [scenario], "rounds": len(rounds), "duration_s": 1,
        "started_at": "2026-01-02T03:04:05",
    }  # fmt: skip


def test_the_ratio_is_the_median_of_the_ratios_within_rounds() -> None:
    table = report.render(
        results(memcached=[10.0, 20.0, 10.0], memcachepy=[8.0, 10.0, 9.0], floor=[5.0, 5.0, 5.0])
    )
    assert "| get | 10.00 | 9.00 | **0.80** (0.50 to 0.90) | ≤ 0.85 ✓ | 0.50 | +80% |" in table


def test_a_missed_bar_is_said() -> None:
    table = report.render(results(memcached=[10.0], memcachepy=[9.0], floor=[5.0]))
    assert "≤ 0.85 ✗ missed" in table


def test_a_server_that_was_left_out_is_a_dash() -> None:
    table = report.render(results(memcached=[10.0], floor=[5.0]))
    assert "| get | 10.00 | - | - | ≤ 0.85 | 0.50 | - |" in table


def test_a_bound_generator_and_other_work_are_said() -> None:
    figures = results(memcached=[10.0], memcachepy=[9.0])
    figures["scenarios"][0]["rounds"][0]["memcachepy"] = part(9.0, 0.99, 0.3)
    figures["scenarios"][0]["rounds"][0]["memcached"] = part(10.0, 0.99, 0.3)
    table = report.render(figures)
    assert "| get † |" in table
    assert "other work used 30% of a core" in table


@pytest.mark.parametrize("name", report.SECTIONS)
def test_the_table_replaces_what_is_between_the_markers(name: str) -> None:
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    document = f"before\n{begin}\nold\n{end}\nafter\n"
    assert report.insert(document, "new\n", name) == f"before\n{begin}\nnew\n{end}\nafter\n"
    with pytest.raises(ValueError, match=f"no <!-- {name}:begin -->"):
        report.insert("nothing", "new\n", name)


def test_results_belong_to_the_section_of_their_name() -> None:
    names = {"2026-11-21-032720.json": "bench", "shift-2026-11-21-032720.json": "shift"}
    names |= {"miss_ratio-2026-11-21-032720.json": "miss_ratio", "mine.json": "bench"}
    assert {name: report.section_of(Path(name)) for name in names} == names


def test_scenarios_have_names_of_their_own_and_known_settings() -> None:
    _load = pytest.importorskip("memcachepy._load")
    names = [scenario.name for scenario in scenarios.SCENARIOS]
    assert len(set(names)) == len(names)
    for scenario in scenarios.SCENARIOS:
        for kind in ("memcached", "memcachepy", "floor"):
            assert set(scenario.settings(kind)) <= set(_load.SETTINGS)


def test_the_floor_answers_what_the_generator_asks(tmp_path: Path) -> None:
    _load = pytest.importorskip("memcachepy._load")
    address = str(tmp_path / "floor.sock")
    binary = servers.build_floor(tmp_path)
    command = servers.server_command("floor", address, 64, binary)
    with servers.Server("floor", command, address, cpu=0) as floor:
        settings = floor.target() | {
            "key_count": 1000, "prefill": 1, "set_share": 1, "get_share": 3, "keys_per_get": 5,
            "pipeline_depth": 20, "value_bytes_max": 3000, "request_count": 4000, "duration_ms": 0,
        }  # fmt: skip
        cpu_ns = floor.cpu_ns()
        phases = _load.run(settings)
        assert floor.cpu_ns() > cpu_ns
        assert floor.memory().worker_bytes > 0
    assert phases["prefill"]["stored"] == 1000
    assert (phases["load"]["stored"], phases["load"]["hits"]) == (1000, 15_000)
    assert phases["load"]["errors"] == 0


def test_mg_is_compared_with_our_own_get_of_the_same_round() -> None:
    figures = results(memcached=[10.0], memcachepy=[9.9], floor=[5.0])
    figures["scenarios"][0]["rounds"][0][scenarios.OWN_GETS] = part(9.0)
    table = report.render(figures)
    assert "get, against our own get: **1.10** (1.10 to 1.10) ≤ 1.10 ✓." in table
    assert "against our own get" not in report.render(results(memcached=[1.0], memcachepy=[1.0]))
