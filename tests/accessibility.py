"""axe-core on a page in a browser: what shuts out people who read by ear, by keyboard, or with weak eyes."""

from pathlib import Path

# axe-core 4.14.1 of npm, unchanged, under the Mozilla Public License 2.0: no package for Python 3.11 has a new one alone.
AXE = Path(__file__).with_name("axe.min.js")
WEIGHTY = ("serious", "critical")
RUN = """
const [leftOut, weighty, done] = arguments;
const rules = Object.fromEntries(leftOut.map((rule) => [rule, { enabled: false }]));
axe.run(document, { resultTypes: ["violations"], rules, preload: false }).then(({ violations }) => done(violations
  .filter((rule) => weighty.includes(rule.impact))
  .flatMap((rule) => rule.nodes.map((node) => `${rule.id} at ${node.target}: ${node.failureSummary}`))));
"""


def faults(driver, left_out=()):
    """The serious and critical faults of the page that the browser shows, a line each. `left_out`: axe's rules that do
    not count."""
    driver.execute_script(AXE.read_text(encoding="utf-8"))
    return driver.execute_async_script(RUN, list(left_out), WEIGHTY)
