/**
 * A network with synthetic weights against PyTorch in float64: fixtures of test/fixtures/nets/make_networks.py, whose
 * weights are a formula (reference/synthetic.py) and so are stored nowhere.
 */
import { crc32 } from 'node:zlib';
import * as assert from 'uvu/assert';
import { vjp } from '../../src/engine/autograd.ts';
import type { Device } from '../../src/engine/device.ts';
import { sizeOf, type Tensor } from '../../src/engine/tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.node.ts';
import { ClassifierNet } from '../../src/nets/classifier.ts';
import { ConsistencyModel } from '../../src/nets/consistency.ts';
import { countParameters, type ParameterShapes, type TensorSource } from '../../src/nets/parameters.ts';
import { type Network, network } from '../../src/nets/registry.ts';
import { ScoreNetwork } from '../../src/nets/score.ts';
import { type Fixture, fromNchw, loadFixture, relativeError, toNchw } from '../support.ts';

/** The tensor `name` of the formula, in the checkpoint's layout. */
export function syntheticTensor(name: string, shape: readonly number[]): Float32Array {
  const out = new Float32Array(sizeOf(shape));
  const seed = crc32(name);
  let offset = 0;
  let scale = 0.1;
  if (name === 'label_emb.weight') scale = 1;
  else if (shape.length >= 2) {
    const last =
      name.endsWith('.kernel') || name.endsWith('.W') || /Downsample_\d+\.Conv2d_0\.weight$/.test(name);
    const fanIn = sizeOf(last ? shape.slice(0, -1) : shape.slice(1));
    scale = Math.sqrt(3 / fanIn);
  } else if (name.endsWith('GaussianFourierProjection_0.W')) scale = 16;
  else if (name.endsWith('running_var')) [offset, scale] = [1, 0.5];
  else if (name.endsWith('.scale') || name.endsWith('.weight')) [offset, scale] = [1, 0.2];
  for (let i = 0; i < out.length; i++) {
    let v = (Math.imul(i, 0x9e3779b1) + seed) >>> 0;
    v ^= v >>> 16;
    v = Math.imul(v, 0x85ebca6b);
    v ^= v >>> 13;
    v = Math.imul(v, 0xc2b2ae35);
    v ^= v >>> 16;
    out[i] = offset + scale * ((v >>> 8) / 2 ** 23 - 1);
  }
  return out;
}

/** A checkpoint of synthetic weights as a network declares it. */
export function syntheticCheckpoint(declared: ParameterShapes): TensorSource {
  const shape = (name: string) => declared.get(name)?.file ?? [];
  return {
    label: 'synthetic weights',
    names: [...declared.keys()],
    shape,
    floats: (name) => syntheticTensor(name, shape(name)),
  };
}

/** The same as a file, below a prefix as DataParallel writes it. @param config of the network's family */
export function writeSyntheticCheckpoint(path: string, name: string, config: Record<string, unknown>): void {
  const net = network(name, config);
  const source = syntheticCheckpoint(
    net.kind === 'classifier' ? net.architecture.parameters : net.unet.parameters,
  );
  const tensors = source.names.map((n) => [
    `module.${n}`,
    { shape: source.shape(n), data: source.floats(n) },
  ]);
  writeSafetensors(path, Object.fromEntries(tensors));
}

const squeezed = (shape: readonly number[]) => String(shape).replace(/(,1)+$/, '');

/** Names, shapes and count of what the network declares are those of the PyTorch module. */
export function checkDeclaration(fixture: Fixture, declared: ParameterShapes): void {
  const shapes = JSON.parse(fixture.metadata.shapes as string) as Record<string, number[]>;
  const ours = [...declared].map(([name, { file }]) => `${name} ${squeezed(file)}`).sort();
  const theirs = Object.entries(shapes).map(([name, shape]) => `${name} ${squeezed(shape)}`);
  assert.equal(ours, theirs.sort());
  assert.is(countParameters(declared), Number(fixture.metadata.parameters));
}

export interface ParityResult {
  /** At which σ or time label; '' for a classifier. */
  readonly at: string;
  /** ‖Δ‖/‖reference‖. */
  readonly y: number;
  readonly dx: number;
  /** The same of PyTorch's own float32. */
  readonly torch: { readonly y: number; readonly dx: number };
}

/** Output and input gradient of a network at every point of its fixture, as one Program each where asked for. */
export async function parity(
  device: Device,
  path: string,
  net: Network,
  options: { recompute?: boolean; source?: TensorSource; program?: boolean } = {},
): Promise<ParityResult[]> {
  const fixture = loadFixture(path);
  const declared = net.kind === 'classifier' ? net.architecture.parameters : net.unet.parameters;
  checkDeclaration(fixture, declared);
  const source = options.source ?? syntheticCheckpoint(declared);
  const labels = fixture.has('labels') ? [...fixture.get('labels').data] : undefined;
  const run = load(device, net, source, options.recompute ?? false);
  const suffixes = fixture.names.filter((name) => /^y(\.|$)/.test(name)).map((name) => name.slice(1));
  const want = fixture.get('cotangent');
  const image = (shape: readonly number[]) => shape.length === 4;
  const cotangent = device.tensor(
    ...(image(want.shape) ? fromNchw(want) : ([want.data, want.shape] as const)),
  );
  const torch = JSON.parse(fixture.metadata.float32 as string) as Record<string, number>;
  const results: ParityResult[] = [];
  for (const suffix of suffixes) {
    const input = fixture.get(fixture.has(`x${suffix}`) ? `x${suffix}` : 'x');
    const x = device.tensor(...fromNchw(input));
    const at = Number(suffix.slice(1));
    const both = () => {
      const { output, pullback } = vjp((u) => run.forward(u, at, labels), [x]);
      return [output, ...pullback(cotangent)] as [Tensor, Tensor];
    };
    // A large network's eager results would all be alive at once; a program plans its memory.
    const program = options.program ? device.record(`${net.name} ${suffix}`, both) : null;
    const [y, dx] = program ? program.run() : device.scope(both);
    const reference = fixture.get(`y${suffix}`);
    const host = await y.floats();
    results.push({
      at: suffix.slice(1),
      y: relativeError(image(reference.shape) ? toNchw(host, reference.shape) : host, reference.data),
      dx: relativeError(toNchw(await dx.floats(), input.shape), fixture.get(`dx${suffix}`).data),
      torch: { y: torch[`y${suffix}`] as number, dx: torch[`dx${suffix}`] as number },
    });
    program?.dispose();
    for (const tensor of [x, y, dx]) tensor.dispose();
  }
  cotangent.dispose();
  run.dispose();
  return results;
}

function load(device: Device, net: Network, source: TensorSource, recompute: boolean) {
  if (net.kind === 'classifier') {
    const classifier = ClassifierNet.load(device, net.architecture, source);
    return { forward: (x: Tensor) => classifier.logits(x), dispose: () => classifier.dispose() };
  }
  if (net.kind === 'score') {
    const score = ScoreNetwork.load(device, net.unet, source);
    return {
      forward: (x: Tensor, time: number, labels?: number[]) => score.predict(x, time, labels),
      dispose: () => score.dispose(),
    };
  }
  const model = ConsistencyModel.load(device, net.unet, source, { recompute });
  return {
    forward: (x: Tensor, sigma: number, labels?: number[]) => model.denoise(x, sigma, labels),
    dispose: () => model.dispose(),
  };
}
