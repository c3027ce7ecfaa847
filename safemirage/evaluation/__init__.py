"""Evaluation: suites yield cases, generators answer them, judges label the answers, metrics count the labels."""
