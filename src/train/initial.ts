/**
 * Starting weights as the published code draws them, but for the biases of classifiers, which begin at 0; from a seed, a
 * checkpoint like one of a file.
 */
import { crc32 } from 'node:zlib';
import { purposes } from '../engine/random.ts';
import { sizeOf } from '../engine/tensor.ts';
import type { Parameter, ParameterShapes, TensorSource } from '../nets/parameters.ts';
import { normals, uniforms } from './draws.ts';

export interface InitialOptions {
  /** Of a U-Net or classifier. */
  readonly family: string;
  readonly seed: number;
  /** Standard deviation of NCSN++'s frequencies; 16. */
  readonly fourierScale?: number;
}

/** Layers at the end of a branch, which begin as nothing: score_sde's `init_scale` 0, ADM's `zero_module`. */
const zero =
  /(ResnetBlockBigGANpp_\d+\.Conv_1|NIN_3|^Conv_1|out_layers\.3|proj_out|^out\.2)\.(kernel|weight|W|bias|b)$/;

/** @returns the tensors of the declaration, in the layouts of its files */
export function initialWeights(declared: ParameterShapes, options: InitialOptions): TensorSource {
  const shape = (name: string) => declared.get(name)?.file ?? [];
  return {
    label: `initial weights of ${options.family}`,
    names: [...declared.keys()],
    shape,
    floats: (name) => draw(name, declared, options),
  };
}

function draw(
  name: string,
  declared: ParameterShapes,
  { family, seed, fourierScale = 16 }: InitialOptions,
): Float32Array {
  const parameter = declared.get(name) as Parameter;
  const out = new Float32Array(sizeOf(parameter.file));
  // A tensor's numbers depend on its name, not on its place.
  const counter = { seed, purpose: purposes.parameters, step: 0, row: crc32(name) };
  const normal = (std: number) => {
    const source = normals(counter);
    return out.map(() => std * source.next().value);
  };
  const uniform = (bound: number) => {
    const source = uniforms(counter);
    return out.map(() => bound * (2 * source.next().value - 1));
  };
  if (parameter.statistic) return out.fill(name.endsWith('var') ? 1 : 0);
  if (parameter.host) return normal(fourierScale);
  if (parameter.shape.length === 1) {
    const scale =
      /(norm|bn|GroupNorm|batchnorm|in_layers\.0|out_layers\.0|^out\.0|downsample\.1).*\.(scale|weight)$/i.test(
        name,
      );
    const layer = declared.get(name.replace(/bias$/, 'weight'));
    if (family === 'adm' && layer && layer.shape.length > 1 && !zero.test(name))
      return uniform(1 / Math.sqrt(fanInOf(layer)));
    return out.fill(scale ? 1 : 0);
  }
  const outputs = parameter.shape.at(-1) as number;
  const fanIn = fanInOf(parameter);
  if (family === 'ncsnpp') {
    // Variance scaling by the mean of the fans; NIN layers have a scale of 0.1, the last of a branch 1e-10.
    const area = parameter.shape.length === 4 ? sizeOf(parameter.shape.slice(0, 2)) : 1;
    const scale = zero.test(name) ? 1e-10 : /NIN_\d/.test(name) ? 0.1 : 1;
    return uniform(Math.sqrt((3 * scale) / ((fanIn + area * outputs) / 2)));
  }
  if (family === 'adm') {
    if (zero.test(name)) return out;
    return name === 'label_emb.weight' ? normal(1) : uniform(1 / Math.sqrt(fanIn));
  }
  // Classifiers: He's for convolutions by their outputs, PyTorch's for the head.
  if (parameter.shape.length === 2) return uniform(1 / Math.sqrt(fanIn));
  return normal(Math.sqrt(2 / ((fanIn / (parameter.shape[2] as number)) * outputs)));
}

/** On the device kernels are HWIO and matrices [in, out]. */
const fanInOf = ({ shape }: Parameter) => sizeOf(shape) / (shape.at(-1) as number);
