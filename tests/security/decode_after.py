"""Decodes bad images as the display does, each after pictures of one colour, and prints those that show that colour.

python3 decode_after.py DAMAGES          JSON: {"decoded": how many made a picture, "shown": [name, pixels], …}
"""

import json
import os
import sys

import cv2
import numpy as np

from display.windows import _decode
from frames import InvalidFrame, Limits, check_image
from security.images import bad_images, encoded

#: No bad image has it, in any channel; another decoder's layout of the same memory shows it too.
COLOUR = 77


def main(damages: str) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what the libraries say of each
    cv2.setNumThreads(1)
    others = [encoded(name, colour=(COLOUR,) * 3) for name in ("JPEG", "PNG", "BMP")]
    decoded = passed = 0
    shown = []
    for name, image in bad_images(int(damages)):
        try:
            info = check_image(image, Limits())
        except InvalidFrame:
            continue
        passed += 1
        for window_wh in ((320, 240), (100, 75)):
            alone = _decode(memoryview(image), (info.width, info.height), window_wh)
            before = 0 if alone is None else int((alone == COLOUR).all(axis=2).sum())
            for other in others:
                at_once = [_decode(memoryview(other), (320, 240), window_wh) for _ in range(3)]
                del at_once
            picture = _decode(memoryview(image), (info.width, info.height), window_wh)
            if picture is None:
                continue
            decoded += 1
            after = int((picture == COLOUR).all(axis=2).sum())
            if alone is None or after > before or not np.array_equal(alone, picture):
                shown.append((name, after))
    print(json.dumps({"passed": passed, "decoded": decoded, "shown": shown}))


if __name__ == "__main__":
    main(*sys.argv[1:])
