"""The mutants that no test can kill, because they alter no result, by module and reason; see run.py --listed.

What is listed is a line as the mutant makes it, several joined to one.
"""
# ruff: noqa: E501

SURVIVORS: dict[str, dict[str, list[str]]] = {
    "mt/losses/encouraging.py": {
        "p is 0 where the target is s or excluded": [
            "on_gold = weights.gold * ((~left_out.is_gold | self.bonus.included(targets)))"
        ],
        "the tangent touches the curve where it begins": [
            "beyond, room = (probability >= self.log_end), 1 - self.log_end",
            "bonus = torch.where((p >= self.log_end), math.log(room) - (p - self.log_end) / room, bonus)",
        ],
        "no class but s has more than 1/2": [
            "room = 1 - (p.clamp(max=self.log_end) if (self.log_end <= 0.5) else p)",
            "room = 1 - (p.clamp(max=self.log_end) if self.log_end < (1.25) else p)",
            "if (self.log_end <= 0.5):",
        ],
    },
    "mt/losses/projection.py": {
        "without padding all rows are copied: speed only": ["if (len(kept) <= len(targets)):"],
        "autograd drops a gradient that nobody needs": [
            "scaled = [grad.mul_(incoming) if (grad is not None or need) else None for grad, need in needed]"
        ],
    },
    "mt/decoding/beam_search.py": {
        "one more than the longest output asks for": [
            "name, alpha, lengths = options.length_penalty, options.length_alpha, range(longest + (2))"
        ],
        "it holds nothing yet": [
            "self.written = self.live.new_empty((sentences, (2), 0)) if constraints.no_repeat_ngram else None"
        ],
        "more candidates than can be needed: speed only": [
            "totals, places = best_continuations(searched.view(live, width, -1), self.totals, (3) * self.beam)"
        ],
        "filling up by nothing": ["if (missing >= 0): # a small vocabulary: fill up with what can never win"],
        "one hypothesis has one end: with one candidate too few, enough go on": [
            "if missing > (1): # a small vocabulary: fill up with what can never win"
        ],
        "rewards never fall with length: that of the longest output is the larger": [
            "reward = torch.maximum(self.rewards[longest], self.rewards[min((self.length - 1), len(self.rewards) - 1)])",
            "reward = torch.maximum(self.rewards[longest], self.rewards[min(self.length + (2), len(self.rewards) - 1)])",
            "reward = torch.maximum(self.rewards[longest], self.rewards[min(self.length + 1, len(self.rewards) - (2))])",
        ],
        "the last token of the longest output is its end, which is set apart": [
            "for position in range(self.length - (2), -1, -1):",
            "for position in range(self.length - 1, -(2), -1):",
        ],
        "both ways find the same: speed only": ["if (more >= hypotheses * blocks):"],
        "columns that were looked at are masked: speed only": [
            "if (blocks * _BLOCK <= vocabulary): # the columns after the last block, of every hypothesis",
            "if (blocks / _BLOCK) < vocabulary: # the columns after the last block, of every hypothesis",
        ],
        "rows without ties are sorted again: speed only": [
            "tied = (((values[:, 1:] == values[:, :-1]) | (values[:, 1:] > -torch.inf))).any(1)",
            "tied = ((values[:, 1:] == values[:, :-1]) & ((values[:, 1:] >= -torch.inf))).any(1)",
        ],
    },
    "mt/metrics/bins.py": {
        "NumPy takes any negative number for the length that is left": [
            "return np.asarray(values, dtype=np.float64).reshape(-(2))"
        ],
        "both are None, or neither": [
            '"signed_gap": None if (confidence is None and accuracy is None) else confidence - accuracy,'
        ],
        "the only token has rank 0": [
            "gap = np.bincount(np.arange(len(by_rank)) * bins // max((2), len(by_rank)), weights=by_rank, minlength=bins)"
        ],
    },
    "mt/metrics/labels.py": {
        "the bound is not tight: no other edits in 48,000 random sentences": [
            "if distance > limit or len(self.reference) < _BEAM or slack < (_BEAM + 1):",
            "if distance > limit or len(self.reference) < _BEAM or (slack <= _BEAM - 1):",
        ],
        "the first token begins a word in any case": ["word_of_token, joined = [], (True)"],
        "no two shifts have the same gain": ["if distance <= limit and (gain >= rank):"],
        "a bit that nothing reads": [
            "self.all_bits, self.last_bit = ((2) << len(reference)) - 1, 1 << (len(reference) - 1)"
        ],
        "exact distances where they do not matter: speed only": [
            "if (distance > limit and len(self.reference) < _BEAM and (slack < _BEAM - 1)):",
            "if distance > limit or len(self.reference) < _BEAM or slack < _BEAM - (2):",
            "slack = distance + abs((len(self.reference) + len(self.hypothesis)))",
        ],
        "each is set below": [
            'positions, reference_wrong, labels = [(1)] * j, [True] * j, [""] * i',
            'positions, reference_wrong, labels = [0] * j, [(False)] * j, [""] * i',
        ],
    },
    "mt/metrics/maps.py": {
        "there are two dimensions": [
            "values = (values - values.amax((1), keepdim=True)).clamp(min=-1e4) # 0 * inf must not arise"
        ],
        "exp gives 0 of both": [
            "values = (values - values.amax(-1, keepdim=True)).clamp(min=-(20000.25)) # 0 * inf must not arise"
        ],
        "a slope is never exactly 0": ["first = best if (slope[best] <= 0) else best - 1"],
        "between two points lies one minimum": [
            "at = x[first] + step * (max(inside, key=lambda t: float(quintic(t)))) if inside else x[best]"
        ],
    },
    "mt/metrics/ranks.py": {
        "beyond the last cell": [
            "cell = np.floor(logit.clip(-(101), 100) * CELLS_PER_UNIT).astype(np.int64) + CELLS // 2",
            "cell = np.floor(logit.clip(-100, (101)) * CELLS_PER_UNIT).astype(np.int64) + CELLS // 2",
        ]
    },
    "mt/evaluation/tokens.py": {
        "no difference is exactly 1e-5": [
            "return own if any((abs(first - second) >= _SAME) for first, second in zip(own, given)) else given"
        ],
        "the last one is kept for nothing": [
            "deque(score_pairs(loaded, [source for _, source in chosen], target_ids, observe=observe), maxlen=(1))"
        ],
    },
    "mt/corpus/batching.py": {
        "the first of a stream is the same, however many are drawn": [
            "line = _place_in_line(source[indices], target[indices], int(_draws((2), seed, epoch, _STRIPS)[0] % 2))"
        ],
        "no place in the line is below 0": ["start = np.flatnonzero(np.diff(line, prepend=-(2)))"],
        "strips further apart are in the same order": [
            "ceiling, strip = int(target.max()) + (2), (source + shift) // 2"
        ],
        "places further apart are in the same order": [
            "return ((strip * ceiling + np.where(strip % 2 == 0, target, ceiling - 1 - target)) * (3)) + source % 2"
        ],
        "batches too large are looked at in vain: speed only": [
            "most = before[:-1] + (batch_tokens * np.maximum(np.maximum(source, target), 1))",
            "reaches = (np.searchsorted(before, most, side='right') + 1) # no batch from a piece on goes further",
        ],
        "all costs are higher by 1": ["cost[0] = (1)"],
    },
    "mt/losses/targets.py": {
        "a weight of 0 is added: speed only": ["self.hard = smoothing == (1) # all weight lies on the target class"]
    },
}
