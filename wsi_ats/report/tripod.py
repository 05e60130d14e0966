"""Items of TRIPOD+AI, the guideline for reports of prediction models, and where this page answers them.

Source: G. S. Collins et al., "TRIPOD+AI statement: updated guidance for reporting clinical prediction models that use
regression or machine learning methods", BMJ 385, 2024, e078378. The items are told in short, in other words.
"""

from __future__ import annotations

from collections.abc import Collection

YOURS = "yours to write"
ITEMS = (
    ("1", "Title: development or evaluation, target population, outcome", ""),
    ("2", "Abstract", ""),
    ("3a", "Health-care context and reason for the model", ""),
    ("3b", "Target population, intended purpose and users", ""),
    ("3c", "Known health inequalities between groups", ""),
    ("4", "Objectives: development, evaluation or both", "summary"),
    ("5a", "Sources of data for development and evaluation", "flow cohort"),
    ("5b", "Dates of the data", ""),
    ("6a", "Setting: number and place of the centres", "cohort sites"),
    ("6b", "Eligibility of participants", ""),
    ("6c", "Treatments received", ""),
    ("7", "Preparation and quality checks of the data", "flow methods"),
    ("8a", "Outcome: what, how and when it was assessed", ""),
    ("8b", "Outcome that needs judgement: who judged", ""),
    ("8c", "Blinding of the outcome's assessment", ""),
    ("9a", "Choice of predictors", "methods"),
    ("9b", "Predictors: what they are and how they are measured", "methods"),
    ("9c", "Predictors that need judgement: who judged", ""),
    ("10", "Sample size and how it was arrived at", "flow"),
    ("11", "Missing data", "flow"),
    ("12a", "How the data were used and parted", "cohort methods"),
    ("12b", "How predictors were handled", "methods"),
    ("12c", "Type of model, steps of building, internal validation", "methods training"),
    ("12d", "Heterogeneity between clusters: how it was handled", "methods sites"),
    ("12e", "Measures and plots of performance", "performance methods"),
    ("12f", "Model updating (recalibration)", "calibration"),
    ("12g", "How predictions were calculated for the evaluation", "methods versions"),
    ("13", "Class imbalance", "cohort"),
    ("14", "Fairness: what was done about it", ""),
    ("15", "Output of the model, and how thresholds were chosen", "methods"),
    ("16", "Differences between development and evaluation data", "cautions"),
    ("17", "Ethical approval", ""),
    ("18a", "Funding", ""),
    ("18b", "Conflicts of interest", ""),
    ("18c", "Protocol", ""),
    ("18d", "Registration", ""),
    ("18e", "Sharing of data", ""),
    ("18f", "Sharing of code", "versions"),
    ("19", "Involvement of patients and the public", ""),
    ("20a", "Flow of participants, numbers with and without the outcome", "flow cohort"),
    ("20b", "Characteristics of participants, by centre", "cohort"),
    ("20c", "Comparison with the development data", "cautions"),
    ("21", "Participants and outcome events in each analysis", "flow performance"),
    ("22", "The full model, so that others can predict with it", "versions"),
    ("23a", "Performance with intervals, also of key subgroups", "performance sites"),
    ("23b", "Heterogeneity of performance between clusters", "sites"),
    ("24", "Results of model updating", "calibration"),
    ("25", "Interpretation, fairness included", ""),
    ("26", "Limitations", "cautions"),
    ("27a", "Input of poor quality or missing: how it is met", "cautions flow"),
    ("27b", "What users must do and know", ""),
    ("27c", "Next steps, applicability, generalisability", ""),
)
"""Number of an item, what it asks for, and sections of this page that say something of it."""


def mapped(sections: Collection[str]) -> list[tuple[str, str, list[str]]]:
    """Every item with the sections, of those that the page has, that say something of it.

    >>> next(row for row in mapped({"sites"}) if row[0] == "23a")
    ('23a', 'Performance with intervals, also of key subgroups', ['sites'])
    """
    return [(item, asks, [name for name in where.split() if name in sections]) for item, asks, where in ITEMS]
