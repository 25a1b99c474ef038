"""Random flips and crops inside jit; every example draws its own.

They take any dtype: augment the uint8 images and standardise afterwards, so that a padded border is
black and a batch moves a quarter of the bytes.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability 1/2.

    Args:
      key: random key.
      images: any dtype, `[b, h, w, c]`.

    Returns:
      Images of the same shape and dtype.

    Raises:
      ValueError: `images` does not have rank 4.
    """
    _check_images(images)
    flip = jax.random.bernoulli(key, shape=(images.shape[0],))
    return lax.platform_dependent(images, flip, cpu=_flip_by_index, default=_flip_by_reversal)


def _flip_by_reversal(images: jax.Array, flip: jax.Array) -> jax.Array:
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


def _flip_by_index(images: jax.Array, flip: jax.Array) -> jax.Array:
    """The same images. XLA on a CPU fuses a reversal with the gather that made the batch, or with
    a crop, and computes that twice for every pixel: up to four times the time of this form."""
    columns = jnp.arange(images.shape[2], dtype=jnp.int32)
    columns = jnp.where(flip[:, None], columns[::-1][None], columns[None])
    return jnp.take_along_axis(images, columns[:, None, :, None], axis=2)


def random_crop(key: jax.Array, images: jax.Array, *, padding: int) -> jax.Array:
    """Pads each image with zeros on all sides and cuts a window of the old size at random.

    Both offsets are uniform on 0, ..., 2 padding, so the content moves by up to `padding` pixels.

    Args:
      key: random key.
      images: any dtype, `[b, h, w, c]`.
      padding: pixels on each side, >= 0; 4 for CIFAR-10.

    Returns:
      Images of the same shape and dtype.

    Raises:
      ValueError: `images` does not have rank 4, or `padding` is negative.

    Reference: He et al., Deep residual learning for image recognition, CVPR 2016, section 4.2.
    """
    _check_images(images)
    if padding < 0:
        raise ValueError(f"padding={padding} is negative; give 0 or more pixels")
    batch, height, width, channels = images.shape
    offsets = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1, jnp.int32)
    border = (padding, padding)
    padded = jnp.pad(images, ((0, 0), border, border, (0, 0)))

    def window(image: jax.Array, offset: jax.Array) -> jax.Array:
        start = (offset[0], offset[1], jnp.zeros((), jnp.int32))
        return lax.dynamic_slice(image, start, (height, width, channels))

    return jax.vmap(window)(padded, offsets)


def center_crop(images: jax.Array, *, size: int) -> jax.Array:
    """Cuts the middle `size` x `size` pixels.

    Args:
      images: any dtype, `[b, h, w, c]` with h, w >= `size`.
      size: side of the window.

    Returns:
      Images `[b, size, size, c]` of the same dtype.

    Raises:
      ValueError: the images are smaller than `size`, or do not have rank 4.
    """
    _check_images(images)
    _, height, width, _ = images.shape
    if not 0 < size <= min(height, width):
        raise ValueError(f"size={size} does not fit into images of {height}x{width} pixels")
    top, left = (height - size) // 2, (width - size) // 2
    return images[:, top : top + size, left : left + size]


def random_resized_crop(
    key: jax.Array,
    images: jax.Array,
    *,
    size: int,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
    """Cuts a window of random area, shape and place from each image and resizes it.

    Share of the area ~ U(area), log(width / height) ~ U(log aspect); a window larger than the image
    is cut to its sides; its place is uniform among those inside. Bilinear, with antialiasing.

    Args:
      key: random key.
      images: uint8 or floating, `[b, h, w, c]`.
      size: side of the result.
      area: least and greatest share of the image's area, 0 < least <= greatest <= 1.
      aspect: least and greatest width over height, 0 < least <= greatest.

    Returns:
      Images `[b, size, size, c]` in the dtype of `images`; uint8 is rounded.

    Raises:
      ValueError: `images` has another rank or dtype, or a range is not one.

    Reference: Szegedy et al., Going deeper with convolutions, CVPR 2015, section 6.
    """
    _check_images(images)
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images is {images.dtype}, expected uint8 or floating")
    if not 0.0 < area[0] <= area[1] <= 1.0:
        raise ValueError(f"area={area} is not a range within 0 (exclusive) to 1")
    if not 0.0 < aspect[0] <= aspect[1]:
        raise ValueError(f"aspect={aspect} is not a range of positive numbers")
    if size <= 0:
        raise ValueError(f"size={size} is not positive")
    batch, height, width, channels = images.shape
    draws = jax.random.uniform(key, (batch, 4), jnp.float32)

    def resized(image: jax.Array, draw: jax.Array) -> jax.Array:
        share = area[0] + (area[1] - area[0]) * draw[0]
        log_ratio = math.log(aspect[0]) + math.log(aspect[1] / aspect[0]) * draw[1]
        ratio = jnp.exp(log_ratio)
        rows = jnp.minimum(jnp.sqrt(share * (height * width) / ratio), float(height))
        columns = jnp.minimum(jnp.sqrt(share * (height * width) * ratio), float(width))
        top, left = (height - rows) * draw[2], (width - columns) * draw[3]
        scale = jnp.stack([size / rows, size / columns])
        return jax.image.scale_and_translate(
            image.astype(jnp.float32),
            (size, size, channels),
            (0, 1),
            scale,
            -jnp.stack([top, left]) * scale,
            "linear",
        )

    result = jax.vmap(resized)(images, draws)
    if images.dtype == jnp.uint8:
        result = jnp.clip(jnp.round(result), 0.0, 255.0)
    return result.astype(images.dtype)


def _check_images(images: jax.Array) -> None:
    if images.ndim != 4:
        raise ValueError(f"images has the shape {list(images.shape)}, expected [b, h, w, c]")
