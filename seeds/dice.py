"""Repeatable choices."""

import random
import re


class Dice:
    """A repeatable stream of choices. Python promises only Random.random() to stay as it is."""

    def __init__(self, *key):
        self._random = random.Random("hefu-seeds-1/" + "/".join(map(str, key)))

    def fraction(self):
        return self._random.random()

    def below(self, bound):
        return int(self.fraction() * bound)

    def pick(self, items):
        return items[self.below(len(items))]

    def weighted(self, items, weights):
        mark = self.fraction() * sum(weights)
        for item, weight in zip(items, weights):
            mark -= weight
            if mark < 0:
                return item
        return items[-1]

    def shuffled(self, items):
        keys = [self.fraction() for _ in items]
        return [items[i] for i in sorted(range(len(items)), key=keys.__getitem__)]

    def fill(self, text, site=""):
        """Puts the site in the place of {site}, and one of every {a|b|c} in its place."""
        text = re.sub(r"\{([^{}]*\|[^{}]*)\}", lambda found: self.pick(found[1].split("|")), text)
        return text.replace("{site}", site)


def apportion(total, weights):
    """Splits a total by weights; the largest remainders take what is left over."""
    shares = [total * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in shares]
    order = sorted(range(len(weights)), key=lambda i: (counts[i] - shares[i], i))
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts
