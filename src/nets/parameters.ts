/**
 * A network's parameters by the names its checkpoints use. Networks are plain data (a plan that lists layers and
 * therefore names and shapes) plus a forward function; `bindParameters` checks a checkpoint against the plan.
 */
import type { Device } from '../engine/device.ts';
import { InputError } from '../engine/errors.ts';
import { type Shape, sizeOf, type Tensor } from '../engine/tensor.ts';

export type ParameterShapes = ReadonlyMap<string, Shape>;

/** Parameters by name; `get` fails on a name the network does not have. */
export class Parameters {
  constructor(readonly tensors: ReadonlyMap<string, Tensor>) {}

  get(name: string): Tensor {
    const tensor = this.tensors.get(name);
    if (!tensor) throw new InputError(`parameter ${name} is missing`);
    return tensor;
  }

  dispose(): void {
    for (const tensor of this.tensors.values()) tensor.dispose();
  }
}

/** What a checkpoint reader offers. */
export interface TensorSource {
  readonly label: string;
  readonly names: readonly string[];
  shape(name: string): Shape;
  floats(name: string): Float32Array;
}

/**
 * Uploads the tensors that `shapes` names.
 * @param permute per name, the axes of the file's layout in the engine's order (OIHW -> HWIO is [2, 3, 1, 0])
 * @throws InputError naming every missing, extra or misshapen tensor with both shapes
 */
export function bindParameters(
  device: Device,
  shapes: ParameterShapes,
  source: TensorSource,
  permute: (name: string) => readonly number[] | null = () => null,
): Parameters {
  const problems: string[] = [];
  for (const [name, shape] of shapes) {
    if (!source.names.includes(name)) {
      problems.push(`${name} [${shape}] is missing`);
      continue;
    }
    const axes = permute(name);
    const found = source.shape(name);
    const arranged = axes ? axes.map((a) => found[a]) : found;
    if (String(arranged) !== String(shape) || (axes && axes.length !== found.length)) {
      const wanted = axes ? axes.map((_, i) => shape[axes.indexOf(i)]) : shape;
      problems.push(`${name} is [${found}], the network wants [${wanted}]`);
    }
  }
  for (const name of source.names)
    if (!shapes.has(name)) problems.push(`${name} [${source.shape(name)}] is not used`);
  if (problems.length > 0) {
    const more = problems.length > 4 ? `; and ${problems.length - 4} more` : '';
    throw new InputError(
      `${source.label}: does not fit the network: ${problems.slice(0, 4).join('; ')}${more}`,
    );
  }
  const tensors = new Map<string, Tensor>();
  for (const [name, shape] of shapes) {
    const axes = permute(name);
    const values = source.floats(name);
    const data = axes ? permuted(values, source.shape(name), axes) : values;
    tensors.set(name, device.keep(device.tensor(data, shape)));
  }
  return new Parameters(tensors);
}

/** Number of parameters. */
export function countParameters(shapes: ParameterShapes): number {
  let count = 0;
  for (const shape of shapes.values()) count += sizeOf(shape);
  return count;
}

/** Elements of `data` in the order of `axes` (NumPy's transpose). */
export function permuted(data: Float32Array, shape: Shape, axes: readonly number[]): Float32Array {
  const strides = shape.map((_, i) => sizeOf(shape.slice(i + 1)));
  const outShape = axes.map((a) => shape[a] as number);
  const outStrides = axes.map((a) => strides[a] as number);
  const out = new Float32Array(data.length);
  const index = new Array<number>(axes.length).fill(0);
  let from = 0;
  for (let i = 0; i < out.length; i++) {
    out[i] = data[from] as number;
    for (let d = axes.length - 1; d >= 0; d--) {
      from += outStrides[d] as number;
      index[d]!++;
      if ((index[d] as number) < (outShape[d] as number)) break;
      from -= (outStrides[d] as number) * (outShape[d] as number);
      index[d] = 0;
    }
  }
  return out;
}
