/** The bench's cases: the operations that cost CMAP its time, at the shipped model's shapes and the published one's. */
import { vjp } from '../src/engine/autograd.ts';
import type { Device } from '../src/engine/device.ts';
import type { Program } from '../src/engine/program.ts';
import { sizeOf, type Tensor } from '../src/engine/tensor.ts';
import { attention } from '../src/kernels/attention.ts';
import { conv2d } from '../src/kernels/conv2d.ts';
import { groupNorm } from '../src/kernels/group-norm.ts';
import { matmul } from '../src/kernels/matmul.ts';

export type Pass = 'forward' | 'input-grad' | 'weight-grad';
export type Op = 'conv2d' | 'matmul' | 'group-norm' | 'attention';

export interface Case {
  readonly kernel: string;
  readonly pass: Pass;
  readonly shape: string;
  readonly op: Op;
  /** Shapes by name, channels last; `dy` where the pass is a gradient. */
  readonly inputs: Readonly<Record<string, readonly number[]>>;
  /** Numbers besides, for peers. */
  readonly settings: Readonly<Record<string, number>>;
  readonly run: (inputs: Readonly<Record<string, Tensor>>) => Tensor;
  /** Inputs that the pass differentiates; none forward. */
  readonly wanted: readonly string[];
  /** Floating-point operations that the pass needs, however it is computed; a multiply-add is two. */
  readonly flops: number;
  /** Bytes that it must move: each input that it depends on read once, each output written once. */
  readonly bytes: number;
}

interface Spec extends Omit<Case, 'pass' | 'wanted' | 'flops' | 'bytes'> {
  readonly output: readonly number[];
  /** Wanted inputs, operations, and inputs that the pass does not read. */
  readonly passes: readonly [Pass, wanted: string[], flops: number, unread: string[]][];
}

function cases({ output, passes, ...spec }: Spec): Case[] {
  return passes.map(([pass, wanted, flops, unread]) => {
    const inputs = pass === 'forward' ? spec.inputs : { ...spec.inputs, dy: output };
    const read = Object.keys(inputs).filter((name) => !unread.includes(name));
    const written =
      wanted.length > 0 ? wanted.map((name) => sizeOf(spec.inputs[name] ?? [])) : [sizeOf(output)];
    const elements = [...read.map((name) => sizeOf(inputs[name] ?? [])), ...written];
    return { ...spec, pass, inputs, wanted, flops, bytes: 4 * elements.reduce((a, b) => a + b, 0) };
  });
}

function conv(n: number, side: number, cin: number, cout: number): Case[] {
  const flops = 2 * n * side * side * 9 * cin * cout;
  return cases({
    kernel: 'conv2d 3x3',
    shape: `${n}x${side}x${side} ${cin}->${cout}`,
    op: 'conv2d',
    inputs: { x: [n, side, side, cin], w: [3, 3, cin, cout] },
    output: [n, side, side, cout],
    settings: {},
    run: ({ x, w }) => conv2d(x as Tensor, w as Tensor, { padding: 1 }),
    passes: [
      ['forward', [], flops, []],
      ['input-grad', ['x'], flops, ['x']],
      ['weight-grad', ['w'], flops, ['w']],
    ],
  });
}

function product(n: number): Case[] {
  return cases({
    kernel: 'matmul',
    shape: `${n}x${n}x${n}`,
    op: 'matmul',
    inputs: { a: [n, n], b: [n, n] },
    output: [n, n],
    settings: {},
    run: ({ a, b }) => matmul(a as Tensor, b as Tensor),
    passes: [['forward', [], 2 * n ** 3, []]],
  });
}

function norm(n: number, side: number, c: number, groups: number): Case[] {
  const eps = 1e-6;
  const size = n * side * side * c;
  return cases({
    kernel: 'group norm + SiLU',
    shape: `${n}x${side}x${side}x${c}, ${groups} groups`,
    op: 'group-norm',
    inputs: { x: [n, side, side, c], scale: [c], bias: [c] },
    output: [n, side, side, c],
    settings: { groups, eps },
    run: ({ x, scale, bias }) =>
      groupNorm(x as Tensor, scale as Tensor, bias as Tensor, { groups, eps, silu: true }),
    passes: [
      ['forward', [], 9 * size, []],
      ['input-grad', ['x'], 14 * size, []],
    ],
  });
}

function attend(n: number, tokens: number, c: number): Case[] {
  const matrix = 2 * n * tokens * tokens * c;
  return cases({
    kernel: 'attention',
    shape: `${n}x${tokens}x${c}`,
    op: 'attention',
    inputs: { q: [n, tokens, c], k: [n, tokens, c], v: [n, tokens, c] },
    output: [n, tokens, c],
    settings: {},
    run: ({ q, k, v }) => attention(q as Tensor, k as Tensor, v as Tensor),
    passes: [
      ['forward', [], 2 * matrix, []],
      ['input-grad', ['q', 'k', 'v'], 4 * matrix, []],
    ],
  });
}

const allCases: readonly Case[] = [
  ...conv(8, 32, 64, 64),
  ...conv(10, 16, 256, 256),
  ...conv(16, 14, 24, 24),
  ...conv(16, 14, 48, 48),
  ...conv(16, 7, 96, 48),
  ...product(512),
  ...product(1024),
  ...norm(8, 32, 64, 32),
  ...norm(10, 16, 256, 32),
  ...norm(16, 14, 24, 6),
  ...attend(1, 256, 256),
  ...attend(4, 256, 256),
  ...attend(16, 49, 48),
];

/** Cases that fill a large GPU, and take a software driver minutes. */
const largeCases: readonly Case[] = [...conv(128, 32, 128, 128), ...product(4096)];

/**
 * Cases whose name contains every word; `a|b` is a word of which either will do.
 * @param large also those that only a GPU should do
 */
export function chooseCases(words: readonly string[], large: boolean): readonly Case[] {
  const fits = (name: string, word: string) => word.split('|').some((part) => name.includes(part));
  const all = large ? [...allCases, ...largeCases] : allCases;
  return all.filter((c) => words.every((word) => fits(`${c.kernel} ${c.pass} ${c.shape}`, word)));
}

/** Uniform in [-1, 1), the same numbers in every run. */
export function noise(size: number, seed: number): Float32Array {
  const data = new Float32Array(size);
  let state = (seed * 0x9e3779b9 + 1) >>> 0;
  for (let i = 0; i < size; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    data[i] = (state >>> 8) / 2 ** 23 - 1;
  }
  return data;
}

/** A case's output from its inputs, and the pullback to those that its pass differentiates. */
export function differentiated(c: Case, inputs: Readonly<Record<string, Tensor>>) {
  return vjp(
    (...xs) =>
      c.run({ ...inputs, ...Object.fromEntries(c.wanted.map((name, i) => [name, xs[i] as Tensor])) }),
    c.wanted.map((name) => inputs[name] as Tensor),
  );
}

export interface OwnCase {
  readonly program: Program<readonly Tensor[]>;
  dispose(): void;
}

/** Our side of a case as a program. A gradient's is the backward alone: what the forward saved lies outside it. */
export function recordCase(device: Device, c: Case, data: Readonly<Record<string, Float32Array>>): OwnCase {
  const { dy, ...inputs } = Object.fromEntries(
    Object.entries(c.inputs).map(([name, shape]) => [name, device.tensor(data[name] ?? [], shape)]),
  );
  if (!dy) {
    const program = device.record(`${c.kernel} ${c.pass}`, () => [c.run(inputs)]);
    return {
      program,
      dispose() {
        program.dispose();
        for (const t of Object.values(inputs)) t.dispose();
      },
    };
  }
  const held = device.scope(() => {
    const { output, pullback } = differentiated(c, inputs);
    const program = device.record(`${c.kernel} ${c.pass}`, () => pullback(dy));
    return { program, output, outputs: program.outputs };
  });
  return {
    program: held.program,
    dispose() {
      held.program.dispose();
      for (const t of [held.output, dy, ...Object.values(inputs)]) t.dispose();
    },
  };
}
