/**
 * `npm run bench -- --memory`: device memory of one forward and backward pass of CMAP's generators, for K latents at
 * once, with and without activation checkpointing: what the plan takes, the least that any plan of the same order of
 * operations could take, and, with `--run N`, what was in use after passes that need at most N gigabytes.
 */
import { vjp } from '../src/engine/autograd.ts';
import { Device } from '../src/engine/device.ts';
import { sizeOf } from '../src/engine/tensor.ts';
import { ConsistencyModel } from '../src/nets/consistency.ts';
import { type ParameterShapes, Parameters } from '../src/nets/parameters.ts';
import { network } from '../src/nets/registry.ts';
import { writeFileAtomic } from '../src/report/files.ts';
import { formatTable } from '../src/report/table.ts';
import { positive, refuseFlags, take, takeOutput, wordsAfter } from './measure.ts';

const words = wordsAfter('--memory');
const run = take(words, '--run');
const limit = run === undefined ? 0 : positive('--run', run, 0) * 2 ** 30;
const json = takeOutput(words, '--json');
refuseFlags(words, false);
const device = await Device.open();
const gigabytes = (bytes: number) => (bytes / 2 ** 30).toFixed(2);

function zeros(shapes: ParameterShapes): Parameters {
  const host = [...shapes].filter(([, { host }]) => host);
  return new Parameters(
    new Map([...shapes].map(([name, { shape }]) => [name, device.keep(device.zeros(shape))])),
    new Map(host.map(([name, { shape }]) => [name, new Float32Array(sizeOf(shape))])),
  );
}

const rows: Record<string, unknown>[] = [];
for (const name of ['ncsnpp-cifar10', 'adm-imagenet64']) {
  const net = network(name);
  if (net.kind !== 'consistency') continue;
  const parameters = zeros(net.unet.parameters);
  const weights = [...net.unet.parameters.values()].reduce((sum, { shape }) => sum + 4 * sizeOf(shape), 0);
  for (const recompute of [false, true]) {
    const model = new ConsistencyModel(device, net.unet, parameters, { recompute });
    model.prepare(80);
    for (const k of [1, 5, 10]) {
      const z = device.zeros([k, ...net.unet.imageShape]);
      const pass = () => {
        const { output, pullback } = vjp((u) => model.generate(u), [z]);
        return pullback(output);
      };
      const cost = device.cost(pass);
      let measured: number | null = null;
      if (weights + cost.plannedBytes <= limit) {
        device.trim();
        const program = device.record(`${name} ${k}`, pass);
        program.run();
        await device.sync();
        measured = device.memory().liveBytes;
        program.dispose();
      }
      rows.push({ network: name, k, recompute, weights, measured, adapter: device.adapter.name, ...cost });
      z.dispose();
    }
  }
  parameters.dispose();
  device.trim();
}
console.log(`adapter: ${device.adapter.name}; gigabytes (2^30), forward and input gradient in float32\n`);
console.log(
  formatTable(
    [
      'network',
      'K',
      'checkpointing',
      'weights',
      'activations',
      'minimum',
      'unplanned',
      'in all',
      'measured',
      'GFLOP',
    ],
    rows.map((r) => [
      String(r.network),
      Number(r.k),
      r.recompute ? 'yes' : 'no',
      gigabytes(Number(r.weights)),
      gigabytes(Number(r.plannedBytes)),
      gigabytes(Number(r.minimumBytes)),
      gigabytes(Number(r.unplannedBytes)),
      gigabytes(Number(r.weights) + Number(r.plannedBytes)),
      r.measured === null ? '' : gigabytes(Number(r.measured)),
      (Number(r.flops) / 1e9).toFixed(0),
    ]),
  ),
);
if (json) writeFileAtomic(json, `${JSON.stringify(rows, null, 1)}\n`);
process.exit(0);
