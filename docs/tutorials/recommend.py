# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # From a text file to recommendations
#
# After this page you have trained a model on a file of your own, seen its learning curves, and recommended
# items to somebody whom it has never met. It needs `pip install -e ".[experiments]"` and takes some minutes.
#
# The file has a line for each user: the user's number and the items, the newest last. We take Amazon Beauty
# if its file is at hand, and else the built-in data set.

# %%
import tempfile
from pathlib import Path

from experiments.data import at_hand, load
from experiments.paper.new_items import write_lines

folder = Path(tempfile.mkdtemp())
data = load("beauty" if at_hand("beauty", None) else "synthetic")
write_lines(data, data.lengths.repeat(data.lengths) > 0, folder / "shop.txt")
print((folder / "shop.txt").read_text()[:60], "…")
print(f"{data.num_users:,} users, {data.num_items:,} items, {data.num_interactions:,} interactions")

# %% [markdown]
# ## Train, with and without smoothing
#
# The command is `python -m experiments.train --dataset shop.txt --epochs 30 --out runs`; from Python it is
# the same words in a list. Each user's last item is for the test, the one before for validation.

# %%
from experiments import train

words = ["--dataset", str(folder / "shop.txt"), "--epochs", "30", "--out", str(folder / "runs")]
status = train.main(words)

# %% [markdown]
# ## The learning curves
#
# Every command writes `curves.png` and `summary.md` into the folder of the runs.

# %%
from IPython.display import Image

Image(folder / "runs" / "curves.png", width=700)

# %% [markdown]
# ## Recommend
#
# For users of the file, and for anyone whose items we know:

# %%
from experiments.recommendations import Recommender

recommender = Recommender.load(folder / "runs" / "sasrec-sevo-adamw-seed0")
somebody = data.item_ids[[3, 14, 15]].tolist()
recommender.recommend({"somebody": somebody}, top_k=5)

# %% [markdown]
# `python -m experiments.recommend RUN --history FILE` does it for a file of people, and
# `python -m experiments.export RUN --out DIR` writes the vectors for a service of your own.
