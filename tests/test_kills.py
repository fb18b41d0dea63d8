"""A run that is killed at random moments ends as the undisturbed one does (kills.py has more)."""

import kills


def test_killed_at_random_moments_a_run_ends_with_the_same_numbers(tmp_path):
    lines = list(kills.kill_and_compare(tmp_path, kills=3, seed=1, steps=4))
    assert sum(line.startswith("kill ") for line in lines) == 3
    assert lines[-1].endswith("all as undisturbed")
