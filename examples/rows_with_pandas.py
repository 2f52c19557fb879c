"""Questions of your own to the rows of a run: who gained, who lost, and does it depend on the kind of expression?

First: python -m attrbind_exp.run text_processor=paper tracker=none hydra.run.dir=outputs/first
"""

import matplotlib.pyplot as plt
import pandas as pd

rows = pd.read_json("outputs/first/expressions.jsonl", lines=True)
rows["iou"] = [100 * at["0.50"] for at in rows.iou_at]  # at threshold 0.5
rows["kind"] = [labels["kind"] for labels in rows.slices]

by_method = rows.pivot(index=["sample_id", "kind"], columns="text_processor", values="iou")
gain = (by_method.attribute_binding - by_method.baseline).rename("gain").reset_index()
print(gain.groupby("kind").gain.describe().round(2))

figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
kinds = sorted(gain.kind.unique())
axis.boxplot([gain.gain[gain.kind == kind] for kind in kinds], tick_labels=kinds)
axis.axhline(0, color="grey", linewidth=1)
axis.set(ylabel="gain in IoU, points", title="attribute_binding beside the baseline")
figure.savefig("rows_with_pandas.png", dpi=100)
