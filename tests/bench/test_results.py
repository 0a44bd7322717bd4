"""The arithmetic behind the tables: spreads, ratios within a round, percentiles, and what counts as met."""

from __future__ import annotations

from typing import Any

import pytest

from bench.results import DAEMON, GIB, Comparison, Latency, Results, Run, Scaling, Spread
from bench.targets import Target, judge


def run(cpu: float, **more: float) -> Run:
    figures: dict[str, Any] = dict.fromkeys(
        (
            "wall",
            "cpu_system",
            "cpu_whole_life",
            "peak_rss",
            "first_copy",
            "rate",
            "sink_cpu",
            "load_average",
        ),
        1.0,
    )
    return Run(**{**figures, "cpu": cpu, **more})


def comparison(rounds: list[tuple[float, float]], objects: int = 1000, size: int = 4096) -> Comparison:
    return Comparison(
        "small", "4 KiB objects", objects, size, "", [{DAEMON: run(a), "rclone": run(b)} for a, b in rounds]
    )


def verdicts(results: Results) -> dict[str, Target]:
    return {target.name: target for target in judge(results)}


class TestComparison:
    def test_a_ratio_is_taken_within_its_round(self) -> None:
        found = comparison([(1, 2), (10, 5), (3, 3)])
        # The medians' ratio would be 3 / 3.
        assert found.ratio("rclone") == Spread(1.0, 0.5, 2.0)
        assert comparison([(1, 2), (10, 5), (3, 30)]).ratio("rclone").median == 0.5

    def test_a_round_without_the_tool_has_no_ratio(self) -> None:
        found = comparison([(1, 2)])
        found.rounds.append({DAEMON: run(100)})
        assert found.ratio("rclone") == Spread(0.5, 0.5, 0.5)
        assert len(found.runs("rclone")) == 1

    def test_small_objects_are_told_in_milliseconds_each(self) -> None:
        assert comparison([(2, 1), (4, 1), (3, 1)]).cpu(DAEMON) == Spread(3.0, 2.0, 4.0)

    def test_large_objects_are_told_in_seconds_per_gib(self) -> None:
        assert comparison([(2, 1)], objects=1, size=GIB // 2).cpu(DAEMON).median == 4.0

    def test_requests_are_those_of_the_run_that_was_counted(self) -> None:
        found = comparison([(1, 1)])
        found.requests = {DAEMON: {"s3": {"GET": 100, "HEAD": 50}}}
        assert found.requests_per_object(DAEMON, "s3") == 0.15
        found.counted_objects = 100
        assert found.requests_per_object(DAEMON, "s3") == 1.5

    def test_what_is_written_says_it_all(self) -> None:
        told = comparison([(2, 4)]).as_json()
        assert told["summary"][DAEMON]["cpu"] == {"median": 2.0, "least": 2.0, "most": 2.0}
        assert told["summary"][DAEMON]["daemon_by_this"] is None
        assert told["summary"]["rclone"]["daemon_by_this"]["median"] == 0.5


HUNDRED = [float(number) for number in range(1, 101)]


class TestLatency:
    def test_percentiles_are_of_all_samples_and_the_spread_of_rounds(self) -> None:
        found = Latency(0, [HUNDRED, [1000.0] * 2], [HUNDRED, [1.0] * 2])
        assert found.spread(found.daemon, 0.5) == Spread(52.0, 51.0, 1000.0)
        assert found.spread(found.bare, 0.99) == Spread(99.0, 1.0, 100.0)

    def test_the_ratio_is_of_the_percentiles(self) -> None:
        found = Latency(0, [[2.0, 4.0], [6.0, 8.0]], [[1.0, 2.0], [2.0, 2.0]])
        assert found.ratio(0.99) == Spread(4.0, 2.0, 4.0)


class TestScaling:
    def test_linear_is_measured_from_the_lowest(self) -> None:
        found = Scaling(30, {16: [150.0, 160.0, 170.0], 8: [100.0], 32: [400.0]})
        assert [found.linearity(one) for one in (8, 16, 32)] == [1.0, 0.8, 1.0]

    def test_the_ideal_is_two_round_trips(self) -> None:
        assert Scaling(25).ideal(10) == 200.0

    def test_a_full_core_is_not_asked_to_grow(self) -> None:
        scaling = Scaling(30, {8: [100.0], 16: [110.0], 32: [110.0]}, {8: [0.2], 16: [0.4], 32: [0.9]})
        found = verdicts(Results(scaling=scaling))
        assert list(found) == ["CONCURRENCY 16: rate by linear growth"]
        assert not found["CONCURRENCY 16: rate by linear growth"].met


class TestTargets:
    @pytest.mark.parametrize(
        ("value", "least", "met"),
        [(1.0, False, True), (1.1, False, False), (1.0, True, True), (0.9, True, False)],
    )
    def test_met(self, value: float, least: bool, met: bool) -> None:
        assert Target("t", value, 1.0, least=least).met is met

    def test_medians_are_judged_but_the_highest_memory(self) -> None:
        found = comparison([(0.6, 6), (0.6, 1), (0.9, 9)])
        found.rounds[0][DAEMON] = run(0.6, peak_rss=97)
        judged = verdicts(Results({"small": found}))
        assert judged["4 KiB: CPU per object"].met
        assert judged["4 KiB: CPU by rclone's"].value == pytest.approx(0.1)
        assert judged["4 KiB objects: peak RSS"].value == 97
        assert not judged["4 KiB objects: peak RSS"].met

    def test_start_up_is_not_held_against_the_requests(self) -> None:
        found = comparison([(1, 1)])
        found.requests = {
            DAEMON: {"s3": {"GET": 1001}, "sqs": {"any": 9999}, "gcs": {"create": 1000, "stat": 2}}
        }
        assert verdicts(Results({"small": found}))["4 KiB: requests per object beyond SQS"].met
        found.requests[DAEMON]["gcs"]["stat"] = 100
        assert not verdicts(Results({"small": found}))["4 KiB: requests per object beyond SQS"].met

    def test_only_what_was_measured_is_judged(self) -> None:
        assert judge(Results()) == []
