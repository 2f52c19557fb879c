"""python -m attrbind_exp.report: a run or a sweep as one HTML page."""
