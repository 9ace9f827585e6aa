/**
 * `npm run bench -- --net`: whole networks. For an NCSN++ forward and backward and for one CMAP iteration: the time,
 * where it goes, what convolutions reach inside the network against the same convolutions alone, what replaying
 * costs the host, and PyTorch on the same shapes. Then how time and memory grow, on a small member of the family.
 * Fails when a replay makes a buffer, a bind group or a pipeline.
 */

import { paperCifar10 } from '../src/cmap/options.ts';
import { PurifyLoop } from '../src/cmap/purify.ts';
import { vjp } from '../src/engine/autograd.ts';
import { CmapError } from '../src/engine/errors.ts';
import type { Kernel, ParamValues } from '../src/engine/kernel.ts';
import type { KernelTime } from '../src/engine/profile.ts';
import type { Program } from '../src/engine/program.ts';
import { sizeOf, type Tensor } from '../src/engine/tensor.ts';
import { readManifest } from '../src/formats/manifest.ts';
import { ConsistencyModel } from '../src/nets/consistency.ts';
import { type NcsnppConfig, ncsnppCifar10 } from '../src/nets/ncsnpp.ts';
import { type ParameterShapes, Parameters } from '../src/nets/parameters.ts';
import { network } from '../src/nets/registry.ts';
import { writeFileAtomic } from '../src/report/files.ts';
import { mean, median } from '../src/report/statistics.ts';
import { formatTable } from '../src/report/table.ts';
import { noise } from './cases.ts';
import {
  busyMs,
  interleave,
  number,
  openRun,
  type PeerTime,
  peerCell,
  peerTime,
  percent,
  type Runner,
  repetition,
  roundingOf,
  type Timing,
  wordsAfter,
} from './measure.ts';
import { torchOrProblem } from './peers.ts';
import { referenceConfig } from './torch.ts';

const { json, only, wanted, device, repetitions, date } = await openRun(wordsAfter('--net'));
const { cpu } = device.capabilities;
const { name: adapter, driver } = device.adapter;

/** Random parameters whose activations neither vanish nor explode: uniform, of variance 1 over the fan-in. */
function synthetic(shapes: ParameterShapes): Parameters {
  const tile = noise(65_537, 1);
  const values = (name: string, shape: readonly number[]) => {
    const fanIn = shape.slice(0, -1).reduce((a, b) => a * b, 1);
    const norm = shape.length === 1 && /(scale|weight)$/.test(name);
    const [offset, factor] = shape.length > 1 ? [0, Math.sqrt(3 / fanIn)] : norm ? [1, 0.2] : [0, 0.1];
    return Float32Array.from(
      { length: sizeOf(shape) },
      (_, i) => offset + factor * (tile[i % 65_537] as number),
    );
  };
  const all = [...shapes];
  return new Parameters(
    new Map(all.map(([name, { shape }]) => [name, device.tensor(values(name, shape), shape)])),
    new Map(all.filter(([, { host }]) => host).map(([name, { shape }]) => [name, values(name, shape)])),
  );
}

function modelOf(config: Readonly<Record<string, unknown>>): ConsistencyModel {
  const net = network('ncsnpp', config);
  if (net.kind === 'classifier') throw new CmapError('not a U-Net');
  const model = new ConsistencyModel(device, net.unet, synthetic(net.unet.parameters));
  model.prepare(model.sigmas.max);
  return model;
}

interface Work {
  readonly program: Program<unknown>;
  dispose(): void;
}

function forwardBackward(model: ConsistencyModel, k: number) {
  const size = k * sizeOf(model.imageShape);
  const z = device.tensor(
    noise(size, 2).map((v) => 80 * v),
    [k, ...model.imageShape],
  );
  const program = device.record(`forward and backward, ${k}`, () => {
    const { output, pullback } = vjp((u) => model.generate(u), [z]);
    return pullback(output);
  });
  return {
    program,
    dispose() {
      program.dispose();
      z.dispose();
    },
  };
}

function cmapIteration(model: ConsistencyModel, b: number, k: number): Work {
  const x = device.tensor(
    noise(b * sizeOf(model.imageShape), 3).map((v) => 0.5 + 0.5 * v),
    [b, ...model.imageShape],
  );
  // The trace has room for so many iterations; every replay is one.
  const loop = new PurifyLoop(model, x, { ...paperCifar10, k, iterations: 1000 }, {});
  return {
    program: loop.program,
    dispose() {
      loop.dispose();
      x.dispose();
    },
  };
}

/** A dispatch as it was recorded, enough to run it again alone. */
interface Recorded {
  readonly kernel: Kernel;
  readonly tensors: Readonly<Record<string, Tensor>>;
  readonly params: ParamValues;
  readonly grid: readonly [number, number, number];
  readonly flops: number;
  /** That of the operation, such as `conv2d [8,32,32,64]`; empty outside of differentiable ones. */
  operation: string;
}

/** What `make` records, dispatch by dispatch. */
function listening<T>(make: () => T): { made: T; steps: Recorded[] } {
  const steps: Recorded[] = [];
  const { run, named } = device;
  let unnamed = 0;
  device.run = (kernel, tensors, params, grid, work = {}) => {
    if (device.recording)
      steps.push({ kernel, tensors, params, grid, flops: work.flops ?? 0, operation: '' });
    run.call(device, kernel, tensors, params, grid, work);
  };
  device.named = (operation) => {
    for (; unnamed < steps.length; unnamed++) (steps[unnamed] as Recorded).operation = operation;
    named.call(device, operation);
  };
  try {
    return { made: make(), steps };
  } finally {
    device.run = run;
    device.named = named;
  }
}

/** One dispatch each of the different convolutions, on memory of their own. */
function alone(steps: readonly Recorded[]) {
  const inputs: Tensor[] = [];
  const program = device.record('convolutions alone', () => {
    for (const { kernel, tensors, params, grid, flops } of steps) {
      const own = Object.fromEntries(
        Object.entries(tensors).map(([name, t]) => {
          const binding = kernel.bindings.find((b) => b.name === name);
          if (binding?.writable) return [name, device.empty(t.shape)];
          const made = device.tensor(noise(t.size, inputs.length), t.shape);
          inputs.push(made);
          return [name, made];
        }),
      );
      device.runOnTexels(kernel, own, params, grid, { flops });
    }
  });
  return {
    program,
    dispose() {
      program.dispose();
      for (const t of inputs) t.dispose();
    },
  };
}

const keyOf = (s: Recorded) => `${s.kernel.name} ${s.grid} ${JSON.stringify(s.params)}`;

async function profiled(program: Program<unknown>): Promise<readonly KernelTime[]> {
  const profile = await device.profile(async () => {
    program.run();
    await device.sync();
  });
  return profile.times();
}

/** What a replay must not make more of. */
function made() {
  return { buffers: device.memory().buffersCreated, pipelines: device.pipelines.count, bindGroups };
}
let bindGroups = 0;
const bind = device.bindGroup;
device.bindGroup = (...args) => {
  bindGroups++;
  return bind.apply(device, args);
};

/** What --json writes of a network. */
export type Network = Awaited<ReturnType<typeof measure>>;

async function measure(name: string, make: () => Work, request: object, gradientError: number | null) {
  const { made: work, steps } = listening(make);
  const { program } = work;
  const began = performance.now();
  await program.prepare();
  program.run();
  await device.sync();
  const firstMs = performance.now() - began;
  const before = made();
  const hostMs: number[] = [];
  const once = await repetition(device, (times) => {
    const start = performance.now();
    program.run(times);
    hostMs.push((performance.now() - start) / times);
  });
  const runners: Runner[] = [{ name: 'ours', once }];
  let peerError = problem;
  try {
    runners.push(...((await torch?.runners(request)) ?? []));
  } catch (error) {
    peerError = (error as Error).message;
  }
  const times = await interleave(runners, { seconds: 0, least: repetitions, most: repetitions });
  const after = made();
  for (const what of ['buffers', 'pipelines', 'bindGroups'] as const) {
    if (after[what] !== before[what])
      throw new CmapError(`${name}: replays made ${after[what] - before[what]} ${what}; they may make none`);
  }
  const own = times.get('ours');
  if (!own || own instanceof Error) throw own ?? new CmapError(name);

  // The same convolutions alone and in the network, in turns, each dispatch by its fastest time.
  const ofConvolution = ({ operation }: Recorded) => /^(the gradient of )?conv2d /.test(operation);
  const convs = steps.filter(ofConvolution);
  const kinds = [...new Map(convs.map((s) => [keyOf(s), s])).values()];
  let convolutions = null;
  let gpuMs = null;
  let wallMs = Number.NaN;
  const kernels: { name: string; share: number; gflops: number }[] = [];
  if (device.capabilities.timestamps) {
    const single = alone(kinds);
    await single.program.prepare();
    single.program.run();
    const inside: KernelTime[][] = [];
    const outside: KernelTime[][] = [];
    const walls: number[] = [];
    for (let i = 0; i < repetitions; i++) {
      const start = performance.now();
      inside.push([...(await profiled(program))]);
      walls.push(performance.now() - start);
      outside.push([...(await profiled(single.program))]);
    }
    single.dispose();
    const best = (runs: KernelTime[][], i: number) =>
      Math.min(...runs.map((run) => (run[i] as KernelTime).microseconds));
    const aloneBy = new Map(kinds.map((s, i) => [keyOf(s), best(outside, i)]));
    const us = steps.map((_, i) => best(inside, i));
    const total = us.reduce((a, b) => a + b, 0);
    let [flops, time, timeAlone] = [0, 0, 0];
    const groups = new Map<string, { us: number; flops: number }>();
    steps.forEach((s, i) => {
      const base = s.kernel.name.split('[')[0] as string;
      const group = groups.get(base) ?? { us: 0, flops: 0 };
      groups.set(base, { us: group.us + (us[i] as number), flops: group.flops + s.flops });
      if (!ofConvolution(s)) return;
      flops += s.flops;
      time += us[i] as number;
      timeAlone += aloneBy.get(keyOf(s)) as number;
    });
    for (const [group, g] of [...groups].sort((a, b) => b[1].us - a[1].us))
      kernels.push({ name: group, share: g.us / total, gflops: g.flops / g.us / 1e3 });
    gpuMs = median(inside.map((run) => run.reduce((sum, t) => sum + t.microseconds, 0) / 1000));
    wallMs = median(walls);
    convolutions = {
      share: time / total,
      gflops: flops / time / 1e3,
      gflopsAlone: flops / timeAlone / 1e3,
      ofAlone: timeAlone / time,
    };
  }
  times.delete('ours');
  const peers: Record<string, PeerTime> =
    times.size > 0
      ? Object.fromEntries([...times].map(([peer, time]) => [peer, peerTime(time, own)]))
      : { torch: { error: peerError } };
  const { cost } = program;
  work.dispose();
  device.trim();
  const row = {
    name,
    adapter,
    driver,
    precision: device.adapter.precision,
    date,
    ...own,
    gflops: cost.flops / own.medianMs / 1e6,
    gflopsBusy: cost.flops / busyMs(device, own) / 1e6,
    dispatches: cost.dispatches,
    hostUsPerDispatch: (1000 * median(hostMs)) / cost.dispatches,
    hostUsPerDispatchBest: (1000 * Math.min(...hostMs)) / cost.dispatches,
    firstMs,
    /** Share of a replay that kernels run, by timestamps: of a profiled one, and of those in a row on a GPU. */
    busyShare: gpuMs === null ? null : gpuMs / (cpu ? wallMs : own.medianMs),
    plannedBytes: cost.plannedBytes,
    /** Of precision f16 against f32, in norm. */
    gradientError,
    madeByReplays: 0,
    convolutions,
    kernels: kernels.slice(0, 8),
    peers,
  };
  console.error(`${name}: ${number(own.medianMs)} ms`);
  return row;
}

const { torch, problem } = await torchOrProblem();

const shipped = readManifest()['fashion-mnist-consistency'];
if (!shipped) throw new CmapError('weights/manifest.json has no fashion-mnist-consistency');
const ask = (config: object, k: number, iteration: boolean) => ({
  network: { config: referenceConfig(config), k, iteration },
});
const rows: Network[] = [];
const save = () => {
  if (json) writeFileAtomic(json, `${JSON.stringify({ networks: rows, growth }, null, 1)}\n`);
};
export interface Growth {
  readonly against: string;
  readonly points: readonly { readonly size: number; readonly ms: number; readonly plannedBytes: number }[];
  readonly timeExponent: number;
  readonly memoryExponent: number;
}
const growth: Growth[] = [];

const networks: [string, object, number[]][] = [
  ['Fashion-MNIST (shipped)', shipped.config ?? {}, [4, 16]],
  ['NCSN++ CIFAR-10', ncsnppCifar10, cpu ? [1, 2] : [1, 2, 5, 10]],
];
const there = [...networks.map(([name]) => name), 'growth'];
if (!there.some(wanted))
  throw new CmapError(`--net --only ${only?.join(',')}: nothing is called so; there are ${there.join(', ')}`);
for (const [name, config, ks] of networks) {
  if (!wanted(name)) continue;
  const model = modelOf({ ...config });
  for (const k of ks) {
    const title = `${name}, forward + backward, K = ${k}`;
    const make = () => forwardBackward(model, k);
    rows.push(await measure(title, make, ask(config, k, false), await roundingOf(device, make)));
    save();
  }
  const k = Math.max(2, ks.at(-1) as number);
  const title = `${name}, CMAP iteration, 1 image, K = ${k}`;
  rows.push(await measure(title, () => cmapIteration(model, 1, k), ask(config, k, true), null));
  save();
  model.dispose();
  device.trim();
}

/** Slope of the least-squares line through the logarithms. */
function exponent(xs: readonly number[], ys: readonly number[]): number {
  const u = xs.map((x) => Math.log(x));
  const v = ys.map((y) => Math.log(y));
  const mu = mean(u);
  const mv = mean(v);
  const top = u.reduce((s, a, i) => s + (a - mu) * ((v[i] as number) - mv), 0);
  return top / u.reduce((s, a) => s + (a - mu) ** 2, 0);
}

const small: NcsnppConfig = {
  ...ncsnppCifar10,
  image_size: 16,
  nf: 16,
  ch_mult: [1, 2],
  num_res_blocks: 1,
  attn_resolutions: [],
};
const series: [string, number[], (size: number) => { model: ConsistencyModel; work: () => Work }][] = [
  ['K', [2, 4, 8, 16], (k) => growing({}, (m) => cmapIteration(m, 1, k))],
  ['batch', [1, 2, 4, 8], (b) => growing({}, (m) => cmapIteration(m, b, 4))],
  ['image size', [16, 32, 64], (s) => growing({ image_size: s }, (m) => forwardBackward(m, 2))],
  ['channels', [16, 32, 64], (nf) => growing({ nf }, (m) => forwardBackward(m, 2))],
];
function growing(change: Partial<NcsnppConfig>, f: (model: ConsistencyModel) => Work) {
  const model = modelOf({ ...small, ...change });
  return { model, work: () => f(model) };
}
if (wanted('growth')) {
  for (const [against, sizes, make] of series) {
    const parts = sizes.map((size) => ({ size, ...make(size) }));
    const works = parts.map(({ work }) => work());
    for (const { program } of works) await program.prepare();
    const times = await interleave(
      works.map(({ program }, i) => ({
        name: String(sizes[i]),
        once: async () => {
          program.run();
          await device.sync();
        },
      })),
      { seconds: 0, least: 2 * repetitions + 1, most: 2 * repetitions + 1 },
    );
    const points = works.map(({ program }, i) => ({
      size: sizes[i] as number,
      ms: busyMs(device, times.get(String(sizes[i])) as Timing),
      plannedBytes: program.cost.plannedBytes,
    }));
    growth.push({
      against,
      points,
      timeExponent: exponent(
        sizes,
        points.map((p) => p.ms),
      ),
      memoryExponent: exponent(
        sizes,
        points.map((p) => p.plannedBytes),
      ),
    });
    for (const work of works) work.dispose();
    for (const { model } of parts) model.dispose();
    device.trim();
    save();
  }
}

const peerNames = [...new Set(rows.flatMap((r) => Object.keys(r.peers)))];
console.log(
  `\n${formatTable(
    [
      'network',
      'ms',
      'quartiles',
      'GFLOP/s',
      'dispatches',
      'host µs each',
      'busy',
      'conv',
      'conv GFLOP/s',
      'of alone',
      'MB',
      'first ms',
      ...peerNames,
    ],
    rows.map((r) => [
      r.name,
      number(r.medianMs),
      r.spread.map(number).join('..'),
      number(r.gflops),
      r.dispatches,
      number(r.hostUsPerDispatchBest),
      r.busyShare === null ? '' : percent(r.busyShare),
      r.convolutions ? percent(r.convolutions.share) : '',
      r.convolutions ? number(r.convolutions.gflops) : '',
      r.convolutions ? percent(r.convolutions.ofAlone) : '',
      (r.plannedBytes / 1e6).toFixed(0),
      number(r.firstMs),
      ...peerNames.map((peer) => peerCell(r.peers[peer], device)),
    ]),
  )}`,
);
console.log('replays made no buffer, bind group or pipeline');
for (const r of rows) {
  if (r.gradientError !== null)
    console.log(
      `\n${r.name}: the gradient by f16 factors is ${r.gradientError.toPrecision(2)} of its norm off`,
    );
  const parts = r.kernels.map(
    (k) => `${k.name} ${percent(k.share)}${k.gflops > 0 ? ` at ${number(k.gflops)}` : ''}`,
  );
  if (parts.length > 0) console.log(`\n${r.name}: ${parts.join(', ')}`);
  for (const [peer, p] of Object.entries(r.peers)) if ('error' in p) console.log(`no: ${peer}: ${p.error}`);
}
if (growth.length > 0)
  console.log(
    `\nGrowth on a small member: time and planned memory ~ size^exponent\n${formatTable(
      ['against', 'sizes', 'ms', 'MB', 'time exponent', 'memory exponent'],
      growth.map((g) => [
        g.against,
        g.points.map((p) => p.size).join(' '),
        g.points.map((p) => number(p.ms)).join(' '),
        g.points.map((p) => (p.plannedBytes / 1e6).toFixed(1)).join(' '),
        g.timeExponent.toFixed(2),
        g.memoryExponent.toFixed(2),
      ]),
    )}`,
  );
torch?.close();
process.exit(0);
