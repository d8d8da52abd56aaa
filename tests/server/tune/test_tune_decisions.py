"""The decisions of `tune`: when a value is better, which values are tried, and what is written."""

from pathlib import Path

import pytest

from poolservice_server.settings import Settings, load
from poolservice_server.tune.candidates import TUNED, Situation, values_to_try
from poolservice_server.tune.comparison import Gain, Measurements
from poolservice_server.tune.job import Job
from poolservice_server.tune.load import Measured
from poolservice_server.tune.settings_file import CannotWrite, check_target, write_settings


def rounds(*rates: float, p99: float = 1.0) -> Measurements:
    return Measurements([[Measured(rate, 0.5, p99)] for rate in rates])


def job(*, is_image: bool = False, has_backbone: bool = False, concurrency: int = 32) -> Job:
    return Job("job", b"x" * 2**20, 1, False, concurrency, 1.0, is_image, has_backbone)


def test_a_gain_that_all_rounds_show_exceeds_the_noise() -> None:
    gain = Gain(rounds(100, 110, 90, 100, 105), rounds(120, 132, 107, 121, 126), [1.0])
    assert gain.ratio == pytest.approx(1.2, rel=0.02)
    assert gain.exceeds_noise


@pytest.mark.parametrize(
    ("reference", "other"),
    [
        # A gain that is too small to matter, one that only some rounds show, and none at all.
        ((100, 100, 100, 100, 100), (102, 102, 102, 102, 102)),
        ((100, 100, 100, 100, 100), (150, 150, 150, 60, 60)),
        ((100, 100, 100, 100, 100), (130, 80, 150, 104, 99)),
        ((100, 100, 100, 100, 100), (90, 90, 90, 90, 90)),
        ((100,), (200,)),
    ],
)
def test_any_other_gain_is_no_reason_to_change_a_setting(
    reference: tuple[float, ...], other: tuple[float, ...]
) -> None:
    assert not Gain(rounds(*reference), rounds(*other), [1.0]).exceeds_noise


def test_a_machine_that_is_slow_for_some_rounds_does_not_decide() -> None:
    gain = Gain(rounds(100, 20, 100, 20, 100), rounds(110, 22, 110, 22, 110), [1.0])
    assert gain.ratio == pytest.approx(1.1)
    assert gain.noise == pytest.approx(0)


def test_weights_say_how_much_a_job_counts() -> None:
    reference = Measurements([[Measured(100, 1, 1), Measured(100, 1, 1)]])
    other = Measurements([[Measured(200, 1, 1), Measured(50, 1, 3)]])
    assert Gain(reference, other, [1, 1]).ratio == pytest.approx(1)
    assert Gain(reference, other, [3, 1]).ratio == pytest.approx(2**0.5)
    assert Gain(reference, other, [1, 1]).p99 == [1, 3]


def test_a_server_that_failed_in_the_second_round_is_compared_in_the_first() -> None:
    assert Gain(rounds(100, 500, 500), rounds(120), [1.0]).ratio == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("name", "jobs", "cores", "on_cpu", "values"),
    [
        ("workers", [job()], 8, True, [2, 4, 8]),
        ("workers", [job()], 2, True, [2]),
        ("workers", [job()], 1, True, []),
        ("workers", [job()], 8, False, []),
        ("threads", [job()], 8, True, [4, 16, 32]),
        ("threads", [job()], 8, False, [2, 4, 6]),
        ("decode_threads", [job()], 8, True, []),
        ("decode_threads", [job(is_image=True)], 4, False, [2, 8, 16]),
        ("backbone_threads", [job(is_image=True)], 4, True, []),
        ("backbone_threads", [job(is_image=True, has_backbone=True)], 4, True, [1, 2, 4]),
        ("max_batch_size", [job()], 2, True, [8, 16]),
        ("max_batch_size", [job(concurrency=1)], 2, True, []),
        ("max_batch_size", [job(is_image=True)], 2, True, []),
        ("max_batch_bytes", [job()], 2, True, [4 * 2**20, 16 * 2**20]),
        ("max_batch_delay", [job()], 2, True, [0.001, 0.004]),
    ],
)
def test_only_values_that_can_matter_are_tried(
    name: str, jobs: list[Job], cores: int, on_cpu: bool, values: list[float]
) -> None:
    assert values_to_try(name, Settings(), {}, Situation(jobs, cores, on_cpu)) == values


def test_the_value_in_use_is_not_tried_again() -> None:
    situation = Situation([job()], 8, True)
    assert values_to_try("workers", Settings(workers=4), {}, situation) == [1, 2, 8]
    assert values_to_try("workers", Settings(), {"workers": 8}, situation) == [1, 2, 4]
    assert values_to_try("threads", Settings(), {"workers": 8}, situation) == [2, 4]
    assert values_to_try("workers", Settings(address="unix:/tmp/socket"), {}, situation) == []


def test_every_tuned_setting_is_one_of_the_server() -> None:
    assert set(TUNED) <= set(Settings.model_fields)


def test_the_written_file_has_the_settings_of_the_user_and_the_changes(tmp_path: Path) -> None:
    given = ["--backbone", "/models/a b", "--device", "cpu", "--max-batch-delay", "0.5", "--insecure", "--threads", "3"]
    settings = load(given)
    write_settings(tmp_path / "new.toml", settings, {"workers": 2, "max_batch_delay": 0.001}, "a comment")
    written = load(["--config", str(tmp_path / "new.toml")])
    expected = settings.model_copy(update={"workers": 2, "max_batch_delay": 0.001, "config": tmp_path / "new.toml"})
    assert written == expected


def test_a_file_that_cannot_be_written_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(CannotWrite, match="is a folder; name a file"):
        check_target(tmp_path / "folder", force=True)
    with pytest.raises(CannotWrite, match=r"cannot write .*folder: Is a directory"):
        write_settings(tmp_path / "folder", Settings(), {}, "a comment")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
