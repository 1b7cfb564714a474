"""What the null GPU says of a few operations, as JSON."""

import ctypes
import json
import os

import torch
import torch.distributed as dist

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
    device = NullDevice(ctypes.CDLL(f'{os.environ["NULL_GPU"]}/libnullcudart.so'))
    with device:
        labels = (
            torch.tensor([3, 1, 4, 1, 5]).pin_memory().to('cuda', non_blocking=True)
        )
        quiet = len(device.syncs)
        answers = dict(
            gpus=torch.cuda.device_count(),
            sums=(labels.cumsum(0) * 2).tolist(),
            positions=(labels == 1).nonzero().flatten().tolist(),
            chosen=labels[labels > 2].tolist(),
            total=labels.sum().item(),
        )
        torch.zeros(4).to('cuda')
        torch.cuda.synchronize()
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
                quiet=quiet,
                syncs=[reason for _, reason, _ in device.syncs],
                convolutions=[*device.convolutions],
                exchanges=exchanges,
                refused=refused,
            )
        )
    )


if __name__ == '__main__':
    main()
