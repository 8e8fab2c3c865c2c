"""Recommend for people the model has never seen, from the titles they name. No retraining, no user id."""

import palate
from palate import EASE

log = palate.read("movielens-small")
rec = palate.Recommender(retrieve=[EASE()]).fit(log)

for titles in (["Toy Story (1995)", "Finding Nemo (2003)"], ["Alien (1979)", "Blade Runner (1982)"]):
    slate = rec.recommend(history=titles, k=5)
    print(f"\n{' and '.join(titles)}:")
    for row in rec.table(slate).to_dicts():
        print(f"  {row['place']}. {row['title']}  ({row['reason']})")
