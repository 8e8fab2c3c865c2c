"""From a CSV of your own to recommendations: kinds of events, an item table, a filter, a person who dislikes something."""

from pathlib import Path

import numpy as np
import polars as pl

import palate

# A shop of 60 things in three departments; each customer mostly buys in one of them.
rng = np.random.default_rng(0)
departments = ["garden", "kitchen", "office"]
items = pl.DataFrame({"sku": range(60), "title": [f"Thing {n}" for n in range(60)], "department": [departments[n % 3] for n in range(60)]})
rows = []
for customer in range(300):
    for hour in np.sort(rng.integers(0, 2000, 12)):
        thing = int(rng.integers(20)) * 3 + (customer % 3 if rng.random() < 0.9 else int(rng.integers(3)))
        rows.append((customer, thing, 1_750_000_000 + int(hour) * 3600, "buy" if rng.random() < 0.3 else "view"))
pl.DataFrame(rows, schema=["customer", "sku", "at", "event"], orient="row").write_csv("events.csv")
items.write_csv("items.csv")

log = palate.read("events.csv", user="customer", item="sku", time="at", kind="event", items="items.csv", positive=["buy", "view"])
train, test = palate.split(log, "leave-last-out")
rec = palate.Recommender(retrieve=["popular", "item_knn"], rank="gbdt", cuts=3).fit(train)
print(rec.evaluate(test))

print("Customer 7, only from the kitchen, never thing 4:")
slate = rec.recommend("7", k=5, filters=['department == "kitchen"'], exclude=["4"])
print(rec.table(slate).select("place", "title", "department", "reason"))

folder = rec.save(Path("bundle"))
print(f"Saved in {folder.name}; loaded again it gives the same:")
print(palate.Recommender.load(folder).recommend("7", k=3).items)
