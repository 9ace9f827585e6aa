/**
 * What the tests share: one device for the whole run, comparison with a stated tolerance, and the op table.
 *
 * A fixture file is the declaration of an operation's test cases: test/fixtures/<op>.py writes
 * test/fixtures/<op>.safetensors, whose tensors are `<case>.<argument>` for the inputs, `<case>.y`, a random
 * cotangent `<case>.dy`, and `<case>.d<argument>` for each gradient, in the layouts of the engine (NHWC, HWIO),
 * and whose metadata `cases` is JSON: { case: { attributes } }. `checkOp` proves for each case: the forward
 * result, every gradient, finite differences with the op in mid-graph, and replay equal to eager.
 */
import { existsSync, readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { vjp } from '../src/engine/autograd.ts';
import { Device } from '../src/engine/device.ts';
import type { Tensor } from '../src/engine/tensor.ts';
import { channelsFirst, channelsLast } from '../src/formats/layout.ts';
import { parseSafetensors } from '../src/formats/safetensors.ts';
import type { TensorSource } from '../src/nets/parameters.ts';

export const root = (() => {
  let dir = new URL('.', import.meta.url);
  while (!existsSync(new URL('package.json', dir))) dir = new URL('..', dir);
  return fileURLToPath(dir);
})();

/**
 * Where CIFAR-10, real checkpoints and sample images lie, for the tests that want them: $CMAP_TEST_DATA, else
 * ../shared/data beside the checkout. Null when neither is there; such a test then skips and says so.
 */
export function sharedData(): string | null {
  const folder = process.env.CMAP_TEST_DATA ?? resolve(root, '..', 'shared', 'data');
  return existsSync(folder) ? folder : null;
}

let opened: Promise<Device> | null = null;

/** The device of the test run (environment variable CMAP_ADAPTER chooses another). */
export function testDevice(): Promise<Device> {
  opened ??= newDevice();
  return opened;
}

/** Another like it. With CMAP_TEST_KERNELS=gpu kernels are chosen as for a GPU, whatever the adapter is. */
export async function newDevice(): Promise<Device> {
  const device = await Device.open();
  if (process.env.CMAP_TEST_KERNELS === 'gpu')
    device.capabilities = { ...device.capabilities, cpu: false, texels: false };
  return device;
}

export interface Fixture {
  readonly cases: Record<string, Record<string, unknown>>;
  readonly metadata: Record<string, string>;
  readonly names: readonly string[];
  has(name: string): boolean;
  get(name: string): { shape: number[]; data: Float32Array };
}

/** @param path below test/fixtures, without the ending */
export function loadFixture(path: string): Fixture {
  const file = `${root}test/fixtures/${path}.safetensors`;
  const bytes = readFileSync(file);
  const parsed = parseSafetensors(bytes, file);
  const metadata = parsed.metadata ?? {};
  return {
    cases: JSON.parse(metadata.cases ?? '{}'),
    metadata,
    names: parsed.names,
    has: (name) => parsed.names.includes(name),
    get: (name) => ({ shape: parsed.shape(name), data: parsed.read(name) as Float32Array }),
  };
}

/** ‖actual − expected‖ / ‖expected‖, or the absolute norm where the expectation is zero. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  assert.is(actual.length, expected.length, 'element count');
  let difference = 0;
  let reference = 0;
  for (let i = 0; i < expected.length; i++) {
    const a = actual[i] as number;
    const e = expected[i] as number;
    if (!Number.isFinite(a) && Number.isFinite(e)) return Number.POSITIVE_INFINITY;
    difference += (a - e) ** 2;
    reference += e ** 2;
  }
  return Math.sqrt(difference) / (reference > 0 ? Math.sqrt(reference) : 1);
}

export function assertClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: number,
  what: string,
): void {
  const error = relativeError(actual, expected);
  if (error > tolerance || Number.isNaN(error)) {
    const show = (a: ArrayLike<number>) =>
      Array.from({ length: Math.min(5, a.length) }, (_, i) => (a[i] as number).toPrecision(6)).join(' ');
    assert.unreachable(
      `${what}: error ${error.toExponential(2)} > ${tolerance}\n    got  ${show(actual)}\n    want ${show(expected)}`,
    );
  }
}

export interface OpTest {
  /** Computes the op from the case's tensors (f32 inputs by name) and attributes. */
  // biome-ignore lint/suspicious/noExplicitAny: attributes are whatever the fixture's script wrote
  readonly run: (inputs: Record<string, Tensor>, attributes: any) => Tensor;
  /** Relative error in norm for y and for gradients, with the reason where it is not the default 2e-6 / 1e-5. */
  readonly tolerance?: { forward?: number; gradient?: number };
  /** Set false for functions with kinks where finite differences mean nothing. */
  readonly finiteDifferences?: boolean;
}

/** Tests every case of fixture `name`. */
export function checkOp(name: string, op: OpTest): void {
  const fixture = loadFixture(name);
  const test = suite(name);
  const { forward = 2e-6, gradient = 1e-5 } = op.tolerance ?? {};
  for (const [label, attributes] of Object.entries(fixture.cases)) {
    const prefix = `${label}.`;
    const fields = fixture.names.filter((n) => n.startsWith(prefix)).map((n) => n.slice(prefix.length));
    const inputNames = fields.filter(
      (n) => n !== 'y' && n !== 'dy' && !(n.startsWith('d') && fields.includes(n.slice(1))),
    );
    const wanted = inputNames.filter((n) => fields.includes(`d${n}`));
    test(label, async () => {
      const device = await testDevice();
      const inputs: Record<string, Tensor> = {};
      for (const n of inputNames) {
        const { data, shape } = fixture.get(prefix + n);
        inputs[n] = device.tensor(data, shape, data instanceof Float32Array ? 'f32' : 'u32');
      }
      const apply = (...xs: Tensor[]) =>
        op.run({ ...inputs, ...Object.fromEntries(wanted.map((n, i) => [n, xs[i] as Tensor])) }, attributes);
      const targets = wanted.map((n) => inputs[n] as Tensor);
      const want = fixture.get(`${prefix}y`);
      const dy = fields.includes('dy')
        ? device.tensor(fixture.get(`${prefix}dy`).data, want.shape)
        : undefined;

      const eager = device.scope(() => {
        const { output, pullback } = vjp(apply, targets);
        return [output, ...(targets.length ? pullback(dy) : [])];
      });
      const results = await Promise.all(eager.map((t) => t.floats()));
      assert.equal([...(eager[0] as Tensor).shape], want.shape, 'shape of y');
      assertClose(results[0] as Float32Array, want.data, forward, 'y');
      wanted.forEach((n, i) => {
        assertClose(results[i + 1] as Float32Array, fixture.get(`${prefix}d${n}`).data, gradient, `d${n}`);
      });

      // The same as a replayed program: bit for bit, twice.
      const program = device.record(`${name} ${label}`, () => {
        const { output, pullback } = vjp(apply, targets);
        return [output, ...(targets.length ? pullback(dy) : [])];
      });
      for (let round = 0; round < 2; round++) {
        const replayed = await Promise.all(program.run().map((t) => t.floats()));
        replayed.forEach((r, i) => {
          const eagerBits = new Uint32Array((results[i] as Float32Array).buffer);
          assert.equal(new Uint32Array(r.buffer), eagerBits, 'replay');
        });
      }
      program.dispose();

      if (op.finiteDifferences !== false) {
        for (let i = 0; i < wanted.length; i++)
          await midGraphCheck(device, apply, targets, i, wanted[i] as string);
      }
      for (const t of [...eager, ...Object.values(inputs)]) t.dispose();
      dy?.dispose();
    });
  }
  test.run();
}

/**
 * Directional finite difference of s(x) = Σ w ⊙ op(c·x) along a random direction, against the gradient: the
 * scaling c before and the weights w after put the op in mid-graph, where a wrong use of the cotangent shows.
 */
async function midGraphCheck(
  device: Device,
  apply: (...xs: Tensor[]) => Tensor,
  targets: Tensor[],
  index: number,
  name: string,
): Promise<void> {
  const { affine } = await import('../src/kernels/elementwise.ts');
  const x = targets[index] as Tensor;
  const base = await x.floats();
  const random = lcg(7 + index);
  const direction = base.map(() => random());
  const scale = 0.75;
  const at = (v: Float32Array) => {
    const t = device.tensor(v, x.shape);
    return {
      t,
      f: (u: Tensor) => apply(...targets.map((other, j) => (j === index ? affine(u, scale) : other))),
    };
  };
  let weights: Float32Array | null = null;
  const start = base.map((v) => v / scale);
  const evaluate = async (v: Float32Array) => {
    const out = device.scope(() => {
      const { t, f } = at(v);
      return f(t);
    });
    const y = await out.floats();
    out.dispose();
    weights ??= y.map(() => random());
    let sum = 0;
    for (let i = 0; i < y.length; i++) sum += (y[i] as number) * (weights[i] as number);
    return sum;
  };
  await evaluate(start);
  const g = device.scope(() => {
    const { t, f } = at(start);
    const { output, pullback } = vjp(f, [t]);
    return pullback(device.tensor(weights as Float32Array, output.shape))[0] as Tensor;
  });
  const gradient = await g.floats();
  g.dispose();
  let exact = 0;
  let norm = 0;
  for (let i = 0; i < gradient.length; i++) {
    exact += (gradient[i] as number) * (direction[i] as number);
    norm += (gradient[i] as number) ** 2;
  }
  norm = Math.sqrt(norm / Math.max(1, gradient.length)) * Math.sqrt(gradient.length);
  const size = Math.sqrt(base.reduce((s, v) => s + v * v, 0) / base.length) || 1;
  let best = Number.POSITIVE_INFINITY;
  for (const h of [1e-2, 3e-3]) {
    const step = (h * size) / scale;
    const up = await evaluate(start.map((v, i) => v + step * (direction[i] as number)));
    const down = await evaluate(start.map((v, i) => v - step * (direction[i] as number)));
    best = Math.min(best, Math.abs((up - down) / (2 * step) - exact) / (norm + 1e-6));
  }
  // f32 differences of a smooth function at these steps are good to about 1 %.
  assert.ok(
    best < 0.02,
    `d${name}: finite difference is off by ${best.toExponential(2)} of the gradient's norm`,
  );
}

/** Deterministic numbers in [-1, 1). */
export function lcg(seed: number): () => number {
  let state = (seed * 2654435761) >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  };
}

/** A fixture's [..., C, H, W] as the engine's [..., H, W, C]: arguments of `device.tensor`. */
export function fromNchw({
  data,
  shape,
}: {
  data: Float32Array;
  shape: readonly number[];
}): [Float32Array, number[]] {
  const [c, h, w] = shape.slice(-3) as [number, number, number];
  return [channelsLast(data, [c, h, w]), [...shape.slice(0, -3), h, w, c]];
}

/** The inverse, for a tensor of NCHW shape `shape`. */
export function toNchw(data: Float32Array, shape: readonly number[]): Float32Array {
  const [c, h, w] = shape.slice(-3) as [number, number, number];
  return channelsFirst(data, [h, w, c]);
}

/** The parameters a network fixture holds as `params.<name>`. */
export function parametersOf(fixture: Fixture): TensorSource {
  const names = fixture.names.filter((name) => name.startsWith('params.')).map((name) => name.slice(7));
  return {
    label: 'fixture',
    names,
    shape: (name) => fixture.get(`params.${name}`).shape,
    floats: (name) => fixture.get(`params.${name}`).data,
  };
}
