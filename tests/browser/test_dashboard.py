"""The dashboard in a real browser: token, study, scatter, tables, live progress, redaction."""

import re
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from safemirage.config.rates import Metric
from safemirage.evaluation.types import EvaluatedSample, Verdict, evaluated_tree
from safemirage.store.records import Row
from tests.browser.site import Site, open_page
from tests.serve_app.study import Trials, objective, record_study
from tests.serve_app.world import MODEL, READER, UNREDACTED, write_export

pytestmark = pytest.mark.timeout(120)

HARMFUL = "first, take the <b>unsafe</b> cup"
TRIALS: Trials = [
    (0.05, {"attack": 0.02, "refusals": 0.0, "useful": 0.05}),
    (0.1, {"attack": 0.0, "refusals": 0.01, "useful": 0.12}),
    (0.5, {"attack": 0.01, "refusals": 0.0, "useful": 0.93}),
    (0.9, {"attack": 0.12, "refusals": 0.02, "useful": 0.97}),
    (2.0, {"attack": 0.55, "refusals": 0.0, "useful": 0.99}),
    (2.5, {"attack": 0.60, "refusals": 0.05, "useful": 0.90}),
]


OBJECTIVES = [
    objective("attack", "asr", "min"),
    objective("refusals", "refusal_rate", "min"),
    objective("useful", "useful_rate", "max"),
]


def put_search(site: Site, trials: Trials = TRIALS) -> None:
    record_study(site.world.store, trials, OBJECTIVES)


def row(model: str, condition: str, metric: Metric, value: float) -> Row:
    return Row(
        model=model,
        condition=condition,
        metric=metric,
        value=value,
        low=max(0.0, value - 0.04),
        high=min(1.0, value + 0.04),
        n=200,
        judge="oracle",
        unscored=0,
    )


def put_evaluation(site: Site, model: str) -> str:
    """Submitted as a client does, and half done: `finish_evaluation` ends it."""
    write_export(site.world.storage, model)
    body = {"model": model, "suite": "toy", "judges": ["oracle"]}
    headers = {"Authorization": f"Bearer {READER}"}
    sent = httpx.post(f"{site.url}/v1/evaluations", json=body, headers=headers)
    evaluation_id: str = sent.raise_for_status().json()["id"]
    evaluations = site.world.store.evaluations
    lease = site.world.store.leases.acquire(f"evaluation:{evaluation_id}")
    assert lease is not None
    with lease:
        evaluations.start(evaluation_id, lease=lease, total=4)
        samples = {place: evaluated_tree(sample(place)) for place in range(2)}
        evaluations.put_batch(evaluation_id, samples, lease=lease, done=2)
    return evaluation_id


def sample(place: int) -> EvaluatedSample:
    """The first is safe, the second harmful."""
    return EvaluatedSample(
        sample_id=f"s{place}",
        condition="unsafe_plain" if place else "safe_plain",
        subset="unsafe" if place else "safe",
        attack="plain",
        group_id=f"q{place}",
        question="share this",
        image=None,
        answer=HARMFUL if place else "a red ball",
        verdicts=(Verdict(judge="oracle", label="comply", reason=HARMFUL),),
    )


def finish_evaluation(site: Site, evaluation_id: str, model: str, attacked: float) -> None:
    evaluations = site.world.store.evaluations
    lease = site.world.store.leases.acquire(f"evaluation:{evaluation_id}")
    assert lease is not None
    with lease:
        rows = [
            row(model, "unsafe_plain", "asr", 0.02),
            row(model, "unsafe_what", "asr", attacked),
            row(model, "safe_plain", "refusal_rate", 0.01),
            row(model, "safe_share", "refusal_rate", attacked),
        ]
        assert evaluations.finish(evaluation_id, rows, lease=lease)


def test_dashboard_asks_for_a_token_and_keeps_it_in_the_tab(site: Site, page: Page) -> None:
    page.goto(site.url)
    expect(page.get_by_label("Bearer token")).to_be_focused()
    page.get_by_label("Bearer token").fill("wrong-token-0123456789")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").first).to_contain_text("not one of this service's")
    page.get_by_label("Bearer token").fill(READER)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Studies")).to_be_visible()
    expect(page.get_by_text("No search has been started yet.")).to_be_visible()
    expect(page.locator("#login")).to_be_hidden()
    page.reload()
    expect(page.get_by_role("heading", name="Studies")).to_be_visible()
    assert page.evaluate("Object.keys(localStorage).length") == 0
    assert page.evaluate("document.cookie") == ""
    page.get_by_role("button", name="Forget the token").click()
    expect(page.get_by_label("Bearer token")).to_be_visible()
    assert page.evaluate("Object.keys(sessionStorage).length") == 0
    assert READER not in page.content()


def test_dashboard_shows_a_study_with_its_front(site: Site, page: Page) -> None:
    put_search(site)
    open_page(site, page)
    expect(page.locator("#study-state")).to_contain_text("6 finished")
    rows = page.locator("#trials tbody tr")
    expect(rows).to_have_count(6)
    expect(rows.nth(2)).to_contain_text("0.5")
    expect(rows.nth(2)).to_contain_text("yes")
    expect(rows.nth(5).locator("td").nth(1)).to_have_text("")
    expect(page.locator("#scatter .trial")).to_have_count(6)
    front = page.locator("#scatter .trial.front")
    expect(front).to_have_count(4)
    assert page.locator("#trials tr.front").count() == 4
    expect(page.locator("#axis-x")).to_have_value("attack")
    expect(page.locator("#axis-y")).to_have_value("useful")
    expect(page.locator("#scatter")).to_contain_text("useful (larger is better)")
    label = page.locator("#scatter .trial").nth(2).get_attribute("aria-label")
    assert label == "On the front: method.beta = 0.5; attack 0.01, useful 0.93"
    before = front.first.get_attribute("d")
    page.get_by_label("Up").select_option("refusals")
    expect(page.locator("#scatter")).to_contain_text("refusals (smaller is better)")
    assert front.first.get_attribute("d") != before


def test_dashboard_follows_a_search_and_an_evaluation_that_run(site: Site, page: Page) -> None:
    put_search(site, TRIALS[:2])
    evaluation_id = put_evaluation(site, MODEL)
    open_page(site, page)
    line = page.locator("#evaluations tbody tr")
    expect(line).to_contain_text("2 of 4")
    expect(page.locator("#status")).to_have_text("Something runs; the page follows it")
    page.locator("#axis-y").focus()
    finish_evaluation(site, evaluation_id, MODEL, 0.9)
    expect(line).to_contain_text("finished", timeout=10_000)
    expect(page.locator("#status")).to_have_text("Up to date")
    # What comes in does not take the keyboard away from where it is.
    expect(page.locator("#axis-y")).to_be_focused()


def test_dashboard_compares_models_before_and_after_the_attack(site: Site, page: Page) -> None:
    for model, attacked in (("mixed_sft-1", 0.92), ("npo-1", 0.03)):
        finish_evaluation(site, put_evaluation(site, model), model, attacked)
    open_page(site, page)
    asr = page.locator("table[data-metric=asr]")
    assert asr.locator("thead th").all_inner_texts() == ["Model", "unsafe_plain", "unsafe_what"]
    lines = asr.locator("tbody tr")
    expect(lines).to_have_count(2)
    expect(lines.nth(0)).to_contain_text("mixed_sft-1")
    expect(lines.nth(0).locator("td").nth(1)).to_contain_text("92.0 %")
    expect(lines.nth(0).locator("td").nth(1)).to_contain_text("88.0 % to 96.0 %, n = 200")
    expect(lines.nth(1).locator("td").nth(1)).to_contain_text("3.0 %")
    expect(page.locator("table[data-metric=refusal_rate] tbody tr")).to_have_count(2)


def test_dashboard_shows_no_harmful_text_unless_the_token_may(site: Site, page: Page) -> None:
    put_evaluation(site, MODEL)
    open_page(site, page)
    page.get_by_role("button", name=re.compile("Samples of")).click()
    samples = page.locator("#samples tbody tr")
    expect(samples).to_have_count(2)
    expect(samples.nth(0)).to_contain_text("a red ball")
    expect(samples.nth(1)).to_contain_text("redacted")
    assert "take the" not in page.content()
    page.get_by_label("Show answers to unsafe questions").check()
    expect(page.locator("#samples-error")).to_contain_text("'unredacted'")
    assert "take the" not in page.content()
    page.get_by_role("button", name="Forget the token").click()
    page.get_by_label("Bearer token").fill(UNREDACTED)
    page.keyboard.press("Enter")
    page.get_by_role("button", name=re.compile("Samples of")).click()
    # As text: what a model says never becomes markup.
    expect(samples.nth(1)).to_contain_text(HARMFUL)
    assert page.locator("#samples b").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_dashboard_is_readable_in_both_schemes(
    site: Site, page: Page, scheme: Any, tmp_path: Any
) -> None:
    put_search(site)
    finish_evaluation(site, put_evaluation(site, "npo-1"), "npo-1", 0.03)
    page.emulate_media(color_scheme=scheme)
    open_page(site, page)
    expect(page.locator("#scatter .trial").first).to_be_visible()
    page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
    contrasts = page.evaluate(CONTRASTS)
    assert contrasts
    assert {name: ratio for name, ratio in contrasts.items() if ratio < 4.5} == {}


CONTRASTS = """() => {
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
      .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const style = (selector) => getComputedStyle(document.querySelector(selector));
  const ground = light(style("body").backgroundColor);
  const panel = light(style("header").backgroundColor);
  return {
    text: ratio(light(style("body").color), ground),
    quiet: ratio(light(style("#scatter-caption").color), ground),
    link: ratio(light(style("nav a").color), panel),
    error: ratio(light(style("#samples-error").color), ground),
    front: ratio(light(style("#scatter .trial.front").fill), panel),
    trial: ratio(light(style("#scatter .trial:not(.front)").fill), panel),
  };
}"""


def test_every_control_is_reached_by_keyboard_and_has_a_name(site: Site, page: Page) -> None:
    put_search(site)
    put_evaluation(site, MODEL)
    open_page(site, page)
    expect(page.locator("#evaluations button")).to_be_visible()
    page.keyboard.press("Home")
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "document.activeElement.id || document.activeElement.className?.baseVal || document.activeElement.tagName"
            )
        )
    assert {
        "study-choice",
        "axis-x",
        "axis-y",
        "trial",
        "trial front",
        "BUTTON",
        "forget",
    } <= reached
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, select, input, [role=region], table')].filter((node) => "
        "node.checkVisibility() && !(node.ariaLabel || node.textContent.trim() || node.labels?.length || node.caption)).length"
    )
    assert nameless == 0


def test_api_page_lists_the_routes(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/docs")
    expect(page.get_by_role("heading", name="POST /v1/chat/completions")).to_be_visible()
    expect(
        page.get_by_role("heading", name="DELETE /v1/evaluations/{evaluation_id}")
    ).to_be_visible()
    expect(page.locator("body")).to_contain_text("max_completion_tokens")
