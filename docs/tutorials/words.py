# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Words on a co-occurrence graph
#
# After this page you have seen SEvo outside of recommendation: word vectors, by skip-grams with one negative
# sample, whose table is smoothed over the graph of words that stand near each other. The text is this
# project's licence, so this shows the calls and not a new record.

# %%
import re
from importlib.metadata import files

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import sevo_jax

licence = next(path for path in files("sevo-jax") if path.name == "LICENSE")
words = re.findall(r"[a-z]+", licence.read_text().lower())
vocabulary, ids = np.unique(words, return_inverse=True)
WINDOW = 2
graph = sevo_jax.sequence_graph(
    [ids], vocabulary.size, max_len=None, walk_length=WINDOW, padding=None
)
print(f"{ids.size:,} words, {vocabulary.size} different ones; {graph}")

# %% [markdown]
# ## Training
#
# A pair of words at a distance of one or two is a positive, a word drawn from all is a negative.

# %%
near = np.concatenate([np.stack([ids[:-h], ids[h:]], axis=1) for h in range(1, WINDOW + 1)])
pairs = jnp.asarray(np.concatenate([near, near[:, ::-1]]))


def loss(params, pair, negative):
    word = params["words"][pair[:, 0]]
    positive = (word * params["contexts"][pair[:, 1]]).sum(-1)
    against = (word * params["contexts"][negative]).sum(-1)
    return (jax.nn.softplus(-positive) + jax.nn.softplus(against)).mean()


def train(optimizer, steps=2000):
    table = 0.1 * jax.random.normal(jax.random.key(0), (vocabulary.size, 32))
    params = {"words": table, "contexts": jnp.zeros_like(table)}

    def step(carry, key):
        params, state = carry
        of_pair, of_negative = jax.random.split(key)
        pair = jax.random.choice(of_pair, pairs, (256,))
        negative = jax.random.randint(of_negative, (256,), 0, vocabulary.size)
        value, gradients = jax.value_and_grad(loss)(params, pair, negative)
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), value

    start = params, optimizer.init(params)
    (params, _), losses = jax.lax.scan(step, start, jax.random.split(jax.random.key(1), steps))
    return params["words"], losses


plain, plain_losses = train(optax.adamw(1e-2))
smoothed, smoothed_losses = train(sevo_jax.sevo_adamw(1e-2, graph, tables="words", beta=0.9))

# %%
for name, losses in (("AdamW", plain_losses), ("SEvo-AdamW", smoothed_losses)):
    plt.plot(np.convolve(losses, np.ones(50) / 50, "valid"), label=name)
plt.xlabel("step")
plt.ylabel("loss, mean of 50 steps")
plt.legend()
plt.show()

# %% [markdown]
# ## The neighbours of ten words, without and with smoothing


# %%
def nearest(table, word, count=4):
    unit = table / jnp.linalg.norm(table, axis=1, keepdims=True)
    closest = np.asarray(jnp.argsort(-unit @ unit[np.flatnonzero(vocabulary == word)[0]]))
    return ", ".join(vocabulary[closest[1 : count + 1]])


counts = np.bincount(ids)
frequent = [word for word in vocabulary[np.argsort(-counts)] if len(word) > 5][:10]
for word in frequent:
    print(f"{word:14} {nearest(plain, word):52} {nearest(smoothed, word)}")

# %% [markdown]
# How smooth the vectors are over the graph, `Tr(X'L̃X) / |X|²`: lower is smoother.

# %%
for name, table in (("AdamW", plain), ("SEvo-AdamW", smoothed)):
    roughness = sevo_jax.diagnostics.smoothness(graph, table) / (table**2).sum()
    print(f"{name:12} {roughness:.3f}")
