"""The rules as promtool sees them: they parse, each alert fires, and none does a little below."""

from collections import defaultdict

from syncd.instances.probe import Word
from tests.monitoring.world import CASES, MONITORING, RULES, load, promtool, rules

RECORDING, ALERTS = RULES


def test_promtool_takes_the_rules() -> None:
    checked = promtool("check", "rules", *RULES)

    assert checked.returncode == 0, checked.stdout


def test_promtool_takes_the_example_of_a_configuration() -> None:
    checked = promtool("check", "config", MONITORING / "prometheus.yml")

    assert checked.returncode == 0, checked.stdout


def test_every_alert_fires_and_does_not_just_below() -> None:
    done = promtool("test", "rules", *CASES)

    assert done.returncode == 0, done.stdout


def test_every_alert_has_cases_of_both_kinds() -> None:
    seen: dict[str, set[bool]] = defaultdict(set)
    for case in (case for path in CASES for case in load(path)["tests"]):
        for asked in case["alert_rule_test"]:
            seen[asked["alertname"]].add(bool(asked["exp_alerts"]))

    assert seen == {alert: {True, False} for alert in rules(ALERTS, "alert")}


def test_every_alert_says_how_bad_it_is_and_what_it_is_about() -> None:
    for name, rule in rules(ALERTS, "alert").items():
        assert name.startswith("Syncd")
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}, name
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}, name


def test_the_timeline_knows_every_word_for_a_model_on_a_server() -> None:
    codes = rules(RECORDING, "record")["syncd:instance_model_state:code"]["expr"]

    assert sorted(word.value for word in Word if f'state="{word.value}"' in codes) == sorted(Word)
    assert codes.count("syncd_instance_model_state{") == len(Word)
