"""The dashboard as Grafana reads it: whole, for any data source, and every panel in a place of its own."""

import re
from itertools import combinations
from typing import Any

import pytest

from syncd.instances.probe import Word
from tests.monitoring.world import MONITORING, RULES, dashboard, load, panels, queries, rules

ANY_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
CODES = rules(RULES[0], "record")["syncd:instance_model_state:code"]["expr"]


def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
    at = panel["gridPos"]
    return {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}


def titled(title: str) -> dict[str, Any]:
    return next(panel for panel in panels() if panel["title"] == title)


def test_the_data_source_is_a_variable_and_nothing_is_bound_to_another() -> None:
    variables = {one["name"]: one for one in dashboard()["templating"]["list"]}

    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    assert all(panel["datasource"] == ANY_SOURCE for panel in panels())
    assert all(target["datasource"] == ANY_SOURCE for panel in panels() for target in panel["targets"])
    assert variables["host"]["datasource"] == variables["model"]["datasource"] == ANY_SOURCE


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    every = dashboard()["panels"]

    assert len({panel["id"] for panel in every}) == len(every)
    for one, other in combinations(every, 2):
        assert not cells(one) & cells(other), (one["title"], other["title"])
    assert max(x for panel in every for x, _ in cells(panel)) < 24


def test_no_query_uses_a_variable_that_nobody_sets() -> None:
    known = {one["name"] for one in dashboard()["templating"]["list"]} | {"__rate_interval", "__range"}

    for query in queries():
        assert set(re.findall(r"\$(\w+)", query.expr)) <= known, query


@pytest.mark.parametrize("word", Word)
def test_the_timeline_has_the_word_for_each_number(word: Word) -> None:
    (mapping,) = titled("Models on servers")["fieldConfig"]["defaults"]["mappings"]
    number = re.search(rf'(\d) \* syncd_instance_model_state\{{state="{word.value}"\}}', CODES)

    assert number is not None
    assert mapping["options"][number[1]]["text"] == word.value


def test_what_grafana_is_provisioned_with_is_the_folder_and_a_prometheus() -> None:
    provisioning = MONITORING / "grafana" / "provisioning"
    (provider,) = load(provisioning / "dashboards" / "dashboards.yml")["providers"]
    (source,) = load(provisioning / "datasources" / "prometheus.yml")["datasources"]

    assert provider["type"] == "file"
    assert provider["options"]["path"] in (MONITORING / "README.md").read_text()
    assert source["type"] == "prometheus"
