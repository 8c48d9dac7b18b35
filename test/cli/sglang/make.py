"""Writes what SGLang's expert distribution recorder dumps (sgl-project/sglang, python/sglang/srt/eplb/expert_distribution.py: _StatAccumulator.dump and _DetailAccumulator.dump), by torch's own torch.save: python make.py FOLDER. These were written by torch 2.13."""
import sys, torch
out = sys.argv[1]
counts = torch.arange(2 * 3 * 4, dtype=torch.int32).reshape(2, 3, 4)
counts[:, 0, :] = 0  # a dense layer counts nothing
torch.save(dict(rank=0, logical_count=counts, average_utilization_rate_over_window=None), f"{out}/sglang-stat.pt")
torch.save(dict(rank=0, logical_count=counts.sum(0).to(torch.int64), average_utilization_rate_over_window=torch.tensor([0.5])), f"{out}/sglang-sum.pt")
# Five physical experts, the last a replica of expert 1; per token: top 2 of 3 tokens.
physical_to_logical = torch.tensor([[0, 1, 2, 3, 1]] * 3)
def record(i, ids):
    topk = torch.tensor(ids, dtype=torch.int32)  # [layer][token][top k], padded with -1
    count = torch.zeros((3, 5), dtype=torch.int32)
    flat = topk.reshape(3, -1)
    count.scatter_add_(1, flat.masked_fill(flat == -1, 0).long(), (flat != -1).int())
    return dict(forward_pass_id=i, rank=0, gatherer_key="primary", input_ids=[7, 8, 9], positions=[0, 1, 2], extend_seq_lens=[3], forward_mode=1,
                topk_ids_of_layer=topk, misc_objects=[], global_physical_count=count)
records = [record(1, [[[-1, -1]] * 3, [[0, 4], [1, 2], [3, 4]], [[0, 1], [0, 2], [0, 3]]]), record(2, [[[-1, -1]] * 3, [[1, 4]] * 3, [[2, 3]] * 3])]
torch.save(dict(records=records, last_physical_to_logical_map=physical_to_logical), f"{out}/sglang-per-token.pt")
torch.save(dict(model=torch.nn.Linear(2, 2)), f"{out}/no-loads.pt")
