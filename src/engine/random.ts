/**
 * Random numbers by Philox 4x32-10, which keeps no state: a number is a function of (seed, image, purpose, step,
 * position in the image). The first axis of a shape is the image, so an image's numbers do not depend on the batch
 * it comes in, on the shard, or on what was drawn before. Words are the same on every adapter; normal numbers
 * agree with double precision within 2e-6.
 */
import advanceSource from './advance.wgsl';
import type { Device } from './device.ts';
import { check } from './errors.ts';
import { kernel, linearGrid } from './kernel.ts';
import { keyOf } from './philox.ts';
import philoxSource from './philox.wgsl';
import randomSource from './random.wgsl';
import { type Shape, sizeOf, Tensor } from './tensor.ts';

/** What numbers are for: streams of different purposes are independent. Values are part of saved results; only append. */
export const purposes = {
  latents: 0,
  attackStart: 1,
  /** Noise inside an attack's expectation over transformation. */
  eot: 2,
  /** Noise inside a randomised defence. */
  defence: 3,
  trainingNoise: 4,
  trainingLevel: 5,
  dropout: 6,
  augmentation: 7,
  shuffle: 8,
  parameters: 9,
  sampling: 10,
} as const;

export interface RandomOptions {
  /** An integer in [0, 2^53). */
  readonly seed: number;
  /** One of `purposes`, or any u32. */
  readonly purpose: number;
  /** Which draw: a number, or a u32 tensor [1] on the device (see `advance`) so that each replay of a program draws anew. */
  readonly step?: number | Tensor;
  /** Global id of each row of the first axis, u32 [shape[0]]; by default 0, 1, 2, … */
  readonly rows?: Tensor;
}

const draws = {
  normal: ['f32', 'return vec4<f32>(normals_of(words.x, words.y), normals_of(words.z, words.w));'],
  uniform: [
    'f32',
    'return vec4<f32>(uniform_of(words.x), uniform_of(words.y), uniform_of(words.z), uniform_of(words.w));',
  ],
  bits: ['u32', 'return words;'],
} as const;

/** Standard normal numbers. @param shape the first axis is the image @throws ShapeError */
export function randomNormal(device: Device, shape: Shape, options: RandomOptions): Tensor {
  return random('normal', device, shape, options);
}

/** Numbers in [0, 1), multiples of 2^-24. @param shape the first axis is the image @throws ShapeError */
export function randomUniform(device: Device, shape: Shape, options: RandomOptions): Tensor {
  return random('uniform', device, shape, options);
}

/** Words of 32 bits, u32. @param shape the first axis is the image @throws ShapeError */
export function randomBits(device: Device, shape: Shape, options: RandomOptions): Tensor {
  return random('bits', device, shape, options);
}

function random(name: keyof typeof draws, device: Device, shape: Shape, options: RandomOptions): Tensor {
  const { seed, purpose, step = 0, rows } = options;
  check(shape.length >= 1, () => `random ${name}: shape [${shape}] has no first axis`);
  const [count] = shape as [number];
  check(
    Number.isSafeInteger(seed) && seed >= 0,
    () => `random ${name}: seed must be an integer in [0, 2^53), got ${seed}`,
  );
  check(isWord(purpose), () => `random ${name}: purpose must be a u32, got ${purpose}`);
  check(
    !rows || (rows.dtype === 'u32' && rows.size === count),
    () =>
      `random ${name}: rows is ${rows?.dtype} [${rows?.shape}], wanted u32 [${count}] for shape [${shape}]`,
  );
  const onDevice = step instanceof Tensor ? step : null;
  check(
    onDevice ? onDevice.dtype === 'u32' && onDevice.size === 1 : isWord(step as number),
    () =>
      `random ${name}: step must be a u32 or a u32 tensor [1], got ${onDevice ? `${onDevice.dtype} [${onDevice.shape}]` : step}`,
  );

  const [type, draw] = draws[name];
  const y = device.empty(shape, type);
  const length = sizeOf(shape.slice(1));
  if (y.size === 0) return y;
  const source = [
    philoxSource,
    randomSource,
    `fn draw(words: vec4<u32>) -> vec4<NUMBER> { ${draw} }`,
    rows ? '@group(0) @binding(2) var<storage, read> rows: array<u32>;' : '',
    `fn row_id(r: u32) -> u32 { return ${rows ? 'rows[r]' : 'r'}; }`,
    onDevice ? '@group(0) @binding(3) var<storage, read> step: array<u32>;' : '',
    `fn step_of(base: u32) -> u32 { return base${onDevice ? ' + step[0]' : ''}; }`,
  ].join('\n');
  const variant = `random-${name}${rows ? ' rows' : ''}${onDevice ? ' step' : ''}`;
  const tensors: Record<string, Tensor> = { y };
  if (rows) tensors.rows = rows;
  if (onDevice) tensors.step = onDevice;
  const blocks = Math.ceil(length / 4);
  const [low, high] = keyOf(seed);
  const params = {
    rows: count,
    length,
    blocks,
    purpose,
    step: onDevice ? 0 : (step as number),
    seed_low: low,
    seed_high: high,
  };
  device.run(kernel(variant, source, { NUMBER: type }), tensors, params, linearGrid(count * blocks));
  return y;
}

/** Adds one to a step, a u32 tensor [1], in place. Usable in a program. */
export function advance(step: Tensor): void {
  check(
    step.dtype === 'u32' && step.size === 1,
    () => `advance: step must be u32 [1], got ${step.dtype} [${step.shape}]`,
  );
  step.device.run(kernel('advance', advanceSource), { step }, {}, [1, 1, 1]);
}

function isWord(x: number): boolean {
  return Number.isInteger(x) && x >= 0 && x < 2 ** 32;
}
