"""What else the model thought of at each token of its output."""

from __future__ import annotations

from collections.abc import Sequence

from mt.decoding.scoring import Distributions, score_pairs
from mt.evaluation.records import Record
from mt.model.directory import LoadedModel

MOST = 3


def add_alternatives(loaded: LoadedModel, records: Sequence[Record], most: int = MOST) -> None:
    """Adds `alternatives` to records with tokens: for each token the `most` likeliest ones there, as [token, natural
    log of the model's own probability], likeliest first.

    One forced pass over the outputs. Lines that were cut or translated in parts, and those with tokens that are none
    of the model's, are left as they are.
    """
    tokenizer, longest = loaded.tokenizer, loaded.config.decode.max_length
    pieces = tokenizer.target_pieces(range(tokenizer.target_size))
    ids = {piece: number for number, piece in enumerate(pieces)}
    known = [record for record in records if record.get("tokens") and ids.keys() >= set(record["tokens"])]
    source_ids = tokenizer.encode_source([record["source"] for record in known])
    chosen = [(record, source) for record, source in zip(known, source_ids) if len(source) <= longest]

    def observe(chunk: Distributions) -> None:
        values, indices = chunk.log_probs.topk(min(most, len(pieces)))
        for pair, place, log_probs, best in zip(chunk.pairs, chunk.positions, values.tolist(), indices.tolist()):
            found = [[pieces[number], round(log_prob, 4)] for number, log_prob in zip(best, log_probs)]
            chosen[pair][0]["alternatives"][place] = found

    for record, _ in chosen:
        record["alternatives"] = [[]] * len(record["tokens"])
    target_ids = [[ids[token] for token in record["tokens"]] for record, _ in chosen]
    for _ in score_pairs(loaded, [source for _, source in chosen], target_ids, observe=observe):
        pass
