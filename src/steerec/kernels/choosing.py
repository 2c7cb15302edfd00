"""The largest of many numbers, without sorting all of them."""

from typing import Any

from numpy.typing import NDArray

from steerec.kernels.compiling import FLOAT, LONG, compiled, made


@compiled([FLOAT(made(FLOAT), LONG), LONG(made(LONG), LONG)])
def nth_largest(values: NDArray[Any], n: int) -> Any:
    """The `n`-th largest (from 1) of values without NaN, which are put into another order.

    Source: Hoare 1961, Algorithm 65 (Find).
    """
    low, high, wanted = 0, len(values) - 1, n - 1
    while low < high:
        middle = values[(low + high) // 2]
        left, right = low, high
        while left <= right:
            while values[left] > middle:
                left += 1
            while values[right] < middle:
                right -= 1
            if left <= right:
                values[left], values[right] = values[right], values[left]
                left += 1
                right -= 1
        if wanted <= right:
            high = right
        elif wanted >= left:
            low = left
        else:
            break
    return values[wanted]
