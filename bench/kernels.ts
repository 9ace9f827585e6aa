/**
 * `npm run bench`: how fast the heavy kernels run on this adapter, at the shipped model's shapes and at those of the
 * published CIFAR-10 network. Each case is a recorded program, replayed; the median and the range are of whole
 * replays on the wall clock, after one to warm up. `--json FILE` writes the rows; other words choose cases.
 */
import { vjp } from '../src/engine/autograd.ts';
import { Device } from '../src/engine/device.ts';
import type { Tensor } from '../src/engine/tensor.ts';
import { attention } from '../src/kernels/attention.ts';
import { conv2d } from '../src/kernels/conv2d.ts';
import { groupNorm } from '../src/kernels/group-norm.ts';
import { matmul } from '../src/kernels/matmul.ts';
import { writeFileAtomic } from '../src/report/files.ts';
import { median } from '../src/report/statistics.ts';
import { formatTable } from '../src/report/table.ts';

interface Case {
  readonly kernel: string;
  readonly shape: string;
  /** Differentiated inputs come first. */
  readonly inputs: readonly (readonly number[])[];
  readonly run: (...inputs: Tensor[]) => Tensor;
  /** Inputs whose gradient is a pass of its own. */
  readonly gradients: Readonly<Record<string, number>>;
}

const conv = (n: number, side: number, cin: number, cout: number): Case => ({
  kernel: 'conv2d 3x3',
  shape: `${n}x${side}x${side} ${cin}->${cout}`,
  inputs: [
    [n, side, side, cin],
    [3, 3, cin, cout],
  ],
  run: (x, w) => conv2d(x as Tensor, w as Tensor, { padding: 1 }),
  gradients: { 'input-grad': 0, 'weight-grad': 1 },
});
const product = (n: number): Case => ({
  kernel: 'matmul',
  shape: `${n}x${n}x${n}`,
  inputs: [
    [n, n],
    [n, n],
  ],
  run: (a, b) => matmul(a as Tensor, b as Tensor),
  gradients: {},
});
const norm = (n: number, side: number, c: number, groups: number): Case => ({
  kernel: 'group norm + SiLU',
  shape: `${n}x${side}x${side}x${c}, ${groups} groups`,
  inputs: [[n, side, side, c], [c], [c]],
  run: (x, s, b) => groupNorm(x as Tensor, s as Tensor, b as Tensor, { groups, eps: 1e-6, silu: true }),
  gradients: { 'input-grad': 0 },
});
const attend = (n: number, tokens: number, c: number): Case => ({
  kernel: 'attention',
  shape: `${n}x${tokens}x${c}`,
  inputs: [
    [n, tokens, c],
    [n, tokens, c],
    [n, tokens, c],
  ],
  run: (q, k, v) => attention(q as Tensor, k as Tensor, v as Tensor),
  gradients: { 'input-grad': 0 },
});

const cases = [
  conv(16, 14, 24, 24),
  conv(16, 14, 48, 48),
  conv(16, 7, 96, 48),
  conv(8, 32, 64, 64),
  conv(10, 16, 256, 256),
  product(512),
  product(1024),
  norm(16, 14, 24, 6),
  norm(10, 32, 256, 32),
  attend(16, 49, 48),
  attend(4, 256, 256),
];

const words = process.argv.slice(2);
const at = words.indexOf('--json');
const file = at >= 0 ? words.splice(at, 2)[1] : undefined;
const chosen = cases.filter((c) => words.every((word) => `${c.kernel} ${c.shape}`.includes(word)));
const device = await Device.open();
const { name, driver } = device.adapter;
console.log(`${name}, ${driver || 'driver not stated'}, ${new Date().toISOString().slice(0, 10)}`);

const rows: {
  kernel: string;
  pass: string;
  shape: string;
  adapter: string;
  medianMs: number;
  spread: [number, number];
  gflops: number;
}[] = [];
for (const c of chosen) {
  const inputs = c.inputs.map((shape, i) => {
    const size = shape.reduce((a, b) => a * b, 1);
    return device.tensor(
      Float32Array.from({ length: size }, (_, j) => Math.sin(i + 0.7 * j)),
      shape,
    );
  });
  const forward = device.record('forward', () => c.run(...inputs));
  const ones = device.full(forward.outputs.shape, 1);
  const time = async (program: { run(): unknown; prepare(): Promise<unknown> }) => {
    await program.prepare();
    program.run();
    await device.sync();
    const times: number[] = [];
    const began = performance.now();
    while (times.length < 5 || (performance.now() - began < 1000 && times.length < 50)) {
      const start = performance.now();
      program.run();
      await device.sync();
      times.push(performance.now() - start);
    }
    return times;
  };
  const push = (pass: string, times: number[], flops: number) => {
    const medianMs = median(times);
    const spread: [number, number] = [Math.min(...times), Math.max(...times)];
    rows.push({
      kernel: c.kernel,
      pass,
      shape: c.shape,
      adapter: name,
      medianMs,
      spread,
      gflops: flops / medianMs / 1e6,
    });
  };
  push('forward', await time(forward), forward.cost.flops);
  for (const [pass, index] of Object.entries(c.gradients)) {
    // The backward alone: what the forward saved is recorded outside the timed program.
    const { pullback } = vjp(
      (x) => c.run(...inputs.map((input, i) => (i === index ? x : input))),
      [inputs[index] as Tensor],
    );
    const backward = device.record(pass, () => pullback(ones));
    push(pass, await time(backward), backward.cost.flops);
    backward.dispose();
  }
  forward.dispose();
  for (const t of [...inputs, ones]) t.dispose();
}
const number = (v: number) => v.toFixed(v < 10 ? 2 : 1);
console.log(
  formatTable(
    ['kernel', 'pass', 'shape', 'median ms', 'min..max', 'GFLOP/s'],
    rows.map((r) => [
      r.kernel,
      r.pass,
      r.shape,
      number(r.medianMs),
      r.spread.map(number).join('..'),
      number(r.gflops),
    ]),
  ),
);
if (file) writeFileAtomic(file, `${JSON.stringify(rows, null, 1)}\n`);
process.exit(0);
