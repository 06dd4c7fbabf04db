"""A comparison as Markdown, for a repository or an article's appendix."""

from __future__ import annotations

from typing import Any

from vilta.report.comparison_prose import how_computed, setup, verdict
from vilta.report.comparison_tables import sections
from vilta.report.html import Table


def comparison_markdown(summary: dict[str, Any]) -> str:
    """Return the report without pictures."""
    arms = ", ".join(summary["about"]["arms"])
    blocks = [f"# Comparison: {arms}", "\n".join(f"- {text}" for text in verdict(summary))]
    blocks.append(" ".join(setup(summary)))
    for section in sections(summary):
        blocks.append(f"## {section.title}")
        blocks += [section.text] if section.text else []
        for title, table in section.tables:
            blocks += [f"### {title}"] if title else []
            blocks.append(markdown_table(table))
    blocks.append("## How each figure was computed")
    blocks += [f"- {text}" for text in how_computed(summary)]
    return "\n\n".join(blocks) + "\n"


def comparison_section(summary: dict[str, Any], title: str, place: str) -> list[str]:
    """Return the main tables as lines of a longer page, naming the file of the whole report."""
    about = summary["about"]
    lines = [f"## {title}", "", *(f"- {text}" for text in verdict(summary)), ""]
    lines += [f"{' '.join(setup(summary))} The whole report: `{place}`.", ""]
    for section in filter(lambda part: part.main, sections(summary)):
        lines += [f"### {section.title}", "", section.text, ""]
        for name, table in section.tables:
            lines += [f"#### {name}", ""] if name else []
            lines += [markdown_table(table), ""]
    cost = ", ".join(f"{arm} {len(seeds)}" for arm, seeds in summary["finished"].items())
    return [*lines, f"Runs: {cost}; base `{about['base']}`, probed on {about['probed_on']}.", ""]


def markdown_table(table: Table) -> str:
    """Return a table of GitHub's Markdown."""
    lines = [table.head, tuple("---" for _ in table.head), *table.rows]
    return "\n".join(f"| {' | '.join(c.replace('|', '/') for c in line)} |" for line in lines)
