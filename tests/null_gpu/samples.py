"""What the null GPU says of a few operations, as JSON."""

import json
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn

from . import process_groups
from .device import NullDevice


def refusal(x: torch.Tensor) -> str:
    try:
        dist.all_reduce(x)
    except RuntimeError as error:
        return str(error)
    return ''


def main() -> None:
    exchanges: list = []
    process_groups.stand_in(exchanges.append)
    dist.init_process_group('nccl')
    gloo = dist.new_group(backend='gloo')
    device = NullDevice()

    def waits(questions: dict[str, Callable[[], object]]) -> dict[str, int]:
        counts = {}
        for name, ask in questions.items():
            device.syncs = []
            ask()
            counts[name] = len(device.syncs)
        return counts

    with device:
        labels = torch.tensor([3, 1, 4, 1, 5]).pin_memory()
        labels = labels.to('cuda', non_blocking=True)
        answers = dict(
            gpus=torch.cuda.device_count(),
            sums=(labels.cumsum(0) * 2).tolist(),
            positions=(labels == 1).nonzero().flatten().tolist(),
            chosen=labels[labels > 2].tolist(),
            total=labels.sum().item(),
        )
        floats, few = torch.ones(9999, device='cuda'), torch.ones(5, device='cuda')
        large, mask = floats > 0, labels > 2
        on_host, pinned = torch.zeros(9), torch.zeros(5).pin_memory()
        event = torch.cuda.current_stream().record_event()
        waiting = waits(
            dict(
                item=lambda: floats.sum().item(),
                condition=lambda: bool(labels[0] == 3),
                tolist=labels.tolist,
                cpu=floats.cpu,
                numpy=lambda: floats.cpu().numpy(),
                nonzero=lambda: large.nonzero(),
                where=lambda: torch.where(mask),
                mask=lambda: floats[large],
                column=lambda: few.expand(2, 5)[:, mask],
                masked=lambda: few.masked_select(mask),
                put=lambda: few.index_put((mask,), few[:3]),
                equal=lambda: torch.equal(labels, labels),
                allclose=lambda: torch.allclose(few, few),
                unique=labels.unique,
                inverse=lambda: torch.unique(labels, return_inverse=True),
                consecutive=lambda: torch.unique_consecutive(labels),
                isin=lambda: torch.isin(labels, labels[:2]),
                repeated=lambda: few.repeat_interleave(labels),
                bincount=lambda: torch.bincount(labels),
                sent=lambda: on_host.to('cuda'),
                sent_later=lambda: on_host.to('cuda', non_blocking=True),
                made=lambda: torch.tensor([1.0], device='cuda'),
                fetched=lambda: on_host.copy_(floats[:9], non_blocking=True),
                fetched_pinned=lambda: pinned.copy_(few),
                stream=lambda: torch.cuda.current_stream().synchronize(),
                event=event.synchronize,
                all=torch.cuda.synchronize,
            )
        )
        queued = waits(
            dict(
                sent=lambda: pinned.to('cuda', non_blocking=True),
                fetched=lambda: pinned.copy_(few, non_blocking=True),
                made=lambda: torch.arange(5, device='cuda'),
                filled=lambda: few.masked_fill(mask, 0),
                fill=lambda: few.index_put_((mask,), few[0]),
                chosen=lambda: few[labels - 1],
                selected=lambda: torch.where(mask, labels, 0),
                found=lambda: torch.searchsorted(labels, labels),
                sorted=few.sort,
                clipped=lambda: nn.utils.clip_grad_norm_([few], 5),
            )
        )
        a, b = torch.empty(3, 4, device='cuda'), torch.empty(4, 5, device='cuda')
        answers['product'] = list((a @ b).shape)
        pictures = torch.empty(2, 3, 8, 8, device='cuda')
        kernel = torch.empty(4, 3, 3, 3, device='cuda')
        torch.nn.functional.conv2d(pictures, kernel)
        dist.all_reduce(a)
        dist.all_reduce(torch.zeros(2), group=gloo)
        parts = [torch.zeros_like(labels) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, labels)
        answers['gathered'] = [part.tolist() for part in parts]
        refused = [refusal(torch.zeros(2)), refusal(a[:, :2])]
    print(
        json.dumps(
            dict(
                answers=answers,
                waiting=waiting,
                queued=queued,
                convolutions=[*device.convolutions],
                exchanges=exchanges,
                refused=refused,
            )
        )
    )


if __name__ == '__main__':
    main()
