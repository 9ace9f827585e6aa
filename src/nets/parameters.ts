/**
 * A network's parameters by the names its published checkpoints use. Networks are plain data (which declares names
 * and shapes) plus a forward function; `bindParameters` checks a checkpoint against the declaration and uploads it.
 */
import type { Device } from '../engine/device.ts';
import { InputError } from '../engine/errors.ts';
import { type Shape, sizeOf, type Tensor } from '../engine/tensor.ts';

/** How a tensor lies in a file and on the device: `file` is seen as `view`, whose axes are then reordered. */
export interface Parameter {
  /** On the device. */
  readonly shape: Shape;
  /** In the checkpoint; axes of length 1 at its end may be absent or added. */
  readonly file: Shape;
  /** Default `file`. */
  readonly view?: Shape;
  /** Axes of the view in the device's order, as NumPy's transpose takes them; default unchanged. */
  readonly axes?: readonly number[];
  /** Gathered, not trained: running means and variances. */
  readonly statistic?: boolean;
  /** A copy stays on the host, for what is computed there in double. */
  readonly host?: boolean;
  /** Another published name and layout of the same tensor. */
  readonly also?: { readonly name: string } & Pick<Parameter, 'file' | 'view' | 'axes'>;
}

export type ParameterShapes = ReadonlyMap<string, Parameter>;

/** OIHW to HWIO. */
const fromOihw = [2, 3, 1, 0];

/** Declares parameters under the names and in the layouts of a PyTorch state_dict. */
export class StateDict {
  readonly parameters = new Map<string, Parameter>();

  conv(name: string, size: number, from: number, to: number, { bias = true } = {}): void {
    this.parameters.set(`${name}.weight`, torchConv(size, from, to));
    if (bias) this.vector(`${name}.bias`, to);
  }

  linear(name: string, from: number, to: number): void {
    this.parameters.set(`${name}.weight`, torchLinear(from, to));
    this.vector(`${name}.bias`, to);
  }

  groupNorm(name: string, channels: number): void {
    this.vector(`${name}.weight`, channels);
    this.vector(`${name}.bias`, channels);
  }

  batchNorm(name: string, channels: number): void {
    this.groupNorm(name, channels);
    for (const field of ['running_mean', 'running_var'])
      this.parameters.set(`${name}.${field}`, { shape: [channels], file: [channels], statistic: true });
  }

  vector(name: string, length: number): void {
    this.parameters.set(name, { shape: [length], file: [length] });
  }
}

export function torchConv(size: number, from: number, to: number): Parameter {
  return { shape: [size, size, from, to], file: [to, from, size, size], axes: fromOihw };
}

export function torchLinear(from: number, to: number): Parameter {
  return { shape: [from, to], file: [to, from], axes: [1, 0] };
}

/** Parameters by name; `get` fails on a name the network does not have. */
export class Parameters {
  constructor(
    readonly tensors: ReadonlyMap<string, Tensor>,
    private readonly copies: ReadonlyMap<string, Float32Array> = new Map(),
    /** Set in training: batch normalisation then takes the batch's own statistics and hands them over here, [C] each. */
    readonly onStatistics?: (name: string, mean: Tensor, variance: Tensor, rows: number) => void,
  ) {}

  get(name: string): Tensor {
    const tensor = this.tensors.get(name);
    if (!tensor) throw new InputError(`parameter ${name} is missing`);
    return tensor;
  }

  /** The host's copy of a parameter that is declared to have one. */
  host(name: string): Float32Array {
    const copy = this.copies.get(name);
    if (!copy) throw new InputError(`parameter ${name} has no copy on the host`);
    return copy;
  }

  /** These with some tensors replaced. */
  with(replaced: ReadonlyMap<string, Tensor>, onStatistics = this.onStatistics): Parameters {
    return new Parameters(new Map([...this.tensors, ...replaced]), this.copies, onStatistics);
  }

  dispose(): void {
    for (const tensor of this.tensors.values()) tensor.dispose();
  }
}

/** What a checkpoint reader offers. */
export interface TensorSource {
  readonly label: string;
  readonly names: readonly string[];
  shape(name: string): readonly number[];
  floats(name: string): Float32Array;
  /** Of the file: those of `cmap train` hold its configuration. */
  readonly metadata?: Readonly<Record<string, string>>;
}

export interface BindOptions {
  /** What stands before the network's names in the file, such as "state_dict.module."; default: found out. */
  readonly prefix?: string;
  /** Called after each tensor. */
  readonly onTensor?: (done: number, total: number) => void;
}

/** Names that belong to a published module but to no computation: counters, constants that are compared or stated elsewhere. */
const ignored = /(^|\.)(num_batches_tracked|sigmas|mu|sigma|normalize\.(mean|std))$/;

/**
 * Uploads the declared tensors. What else the file holds (optimiser states, other copies of the weights) is ignored,
 * except a tensor among the network's own that the network does not have.
 * @throws InputError naming every missing, extra or misshapen tensor with both shapes
 */
export function bindParameters(
  device: Device,
  declared: ParameterShapes,
  file: TensorSource,
  options: BindOptions = {},
): Parameters {
  const source = withShadowParameters(file, options.prefix);
  const found = findNames(declared, source, options.prefix);
  const problems: string[] = [];
  const used = new Set<string>();
  const chosen = new Map<string, { name: string; layout: Pick<Parameter, 'file' | 'view' | 'axes'> }>();
  for (const [name, parameter] of declared) {
    const layout = found.also ? parameter.also : parameter;
    const own = found.also ? (parameter.also?.name ?? name) : name;
    const beside = (parameter.statistic || parameter.host) && !found.names.has(found.prefix + own);
    const full = (beside ? found.rest : found.prefix) + own;
    used.add(full);
    if (!layout || !found.names.has(full)) {
      problems.push(`${full} [${(layout ?? parameter).file}] is missing`);
    } else if (squeezed(source.shape(full)) !== squeezed(layout.file)) {
      problems.push(`${full} is [${source.shape(full)}], the network wants [${layout.file}]`);
    } else chosen.set(name, { name: full, layout });
  }
  const modules = new Set([...used].map((name) => firstPart(name.slice(found.prefix.length))));
  for (const name of source.names) {
    if (used.has(name) || ignored.test(name) || !name.startsWith(found.prefix)) continue;
    const own = name.slice(found.prefix.length);
    if (modules.has(firstPart(own))) problems.push(`${name} [${source.shape(name)}] is not used`);
  }
  if (problems.length > 0) {
    const more = problems.length > 4 ? `; and ${problems.length - 4} more` : '';
    throw new InputError(
      `${source.label}: does not fit the network: ${problems.slice(0, 4).join('; ')}${more}`,
    );
  }
  const tensors = new Map<string, Tensor>();
  const copies = new Map<string, Float32Array>();
  const parameters = new Parameters(tensors, copies);
  try {
    for (const [name, { shape, host }] of declared) {
      const { name: full, layout } = chosen.get(name) as NonNullable<ReturnType<(typeof chosen)['get']>>;
      const values = source.floats(full);
      const bad = values.findIndex((value) => !Number.isFinite(value));
      if (bad >= 0)
        throw new InputError(
          `${source.label}: ${full} [${source.shape(full)}] holds ${values[bad]} at position ${bad}; the checkpoint is damaged (cmap weights verify)`,
        );
      const data = layout.axes ? permuted(values, layout.view ?? layout.file, layout.axes) : values;
      tensors.set(name, device.keep(device.tensor(data, shape)));
      if (host) copies.set(name, data);
      options.onTensor?.(tensors.size, declared.size);
    }
  } catch (error) {
    parameters.dispose();
    throw error;
  }
  return parameters;
}

const firstPart = (name: string) => name.slice(0, `${name}.`.indexOf('.'));
const squeezed = (shape: Shape) => String(shape).replace(/(,1)+$/, '');

/**
 * Under which prefix the file has the network's tensors: the one with most of its names. Of several copies an
 * exponential moving average is taken, as the published samplers do, then the copy without a prefix.
 */
function findNames(declared: ParameterShapes, source: TensorSource, wanted: string | undefined) {
  const names = new Set(source.names);
  const count = (prefix: string, also: boolean) => {
    let hits = 0;
    for (const [name, parameter] of declared) {
      const own = also ? parameter.also?.name : name;
      if (own !== undefined && names.has(prefix + own)) hits++;
    }
    return hits;
  };
  const candidates: { prefix: string; also: boolean; hits: number; rank: number }[] = [];
  for (const also of [false, true]) {
    const own = [...declared].flatMap(([name, { also: other }]) =>
      also ? (other ? [other.name] : []) : [name],
    );
    if (own.length === 0) continue;
    const prefixes = new Set<string>();
    // Any few of the names find every prefix there is; more than one, so that a missing tensor does not hide it.
    for (const name of own.slice(0, 8)) {
      for (const full of names)
        if (full === name || full.endsWith(`.${name}`)) prefixes.add(full.slice(0, -name.length));
    }
    for (const prefix of wanted === undefined ? prefixes : [wanted]) {
      const rank = /(^|[._])ema/i.test(prefix) ? 0 : prefix === '' ? 1 : /opt/.test(prefix) ? 3 : 2;
      candidates.push({ prefix, also, hits: count(prefix, also), rank });
    }
  }
  candidates.sort((a, b) => b.hits - a.hits || a.rank - b.rank);
  // An average of the trained parameters alone: what is not trained comes from the copy beside it.
  const [first] = candidates;
  const untrained = [...declared.values()].filter(({ statistic, host }) => statistic || host).length;
  const average = candidates.find(
    ({ also, hits, rank }) =>
      wanted === undefined && rank === 0 && also === first?.also && hits === declared.size - untrained,
  );
  if (first && average && first.hits === declared.size && first.rank !== 0)
    return { prefix: average.prefix, rest: first.prefix, also: average.also, names };
  const [best, second] = candidates;
  if (wanted !== undefined && best?.hits === 0)
    throw new InputError(`${source.label}: no tensor of the network lies under the prefix "${wanted}"`);
  // A few names in common, such as conv1.weight of each block, make no copy.
  const whole = best !== undefined && 2 * best.hits >= declared.size;
  const exported = exportedAverage(source);
  const own = candidates.find(
    ({ prefix, hits, rank }) => prefix === exported && hits === best?.hits && rank === best.rank,
  );
  if (own && wanted === undefined) return { prefix: own.prefix, rest: own.prefix, also: own.also, names };
  const tied =
    second && best?.hits === second.hits && best.rank === second.rank && best.prefix !== second.prefix;
  if (whole && tied && (best.rank === 0 || best.rank === 2)) {
    throw new InputError(
      `${source.label}: holds several copies of the network, under "${best.prefix}" and "${second.prefix}"; choose one with --prefix`,
    );
  }
  const prefix = best?.prefix ?? wanted ?? '';
  return { prefix, rest: prefix, also: best?.also ?? false, names };
}

/** The average that `cmap train` exports, the first of its configuration: in a checkpoint of it that one is meant. */
function exportedAverage(source: TensorSource): string | null {
  const { averages } = trainedWith(source);
  return Array.isArray(averages) && averages.length > 0 ? `ema_${averages[0]}.` : null;
}

/** The configuration that `cmap train` left in a checkpoint; nothing of another's. */
export function trainedWith({ metadata }: TensorSource): {
  readonly averages?: unknown;
  readonly task?: unknown;
  readonly sigma_data?: unknown;
} {
  try {
    return JSON.parse(metadata?.config ?? '{}') ?? {};
  } catch {
    return {};
  }
}

/**
 * score_sde's checkpoints keep the moving average as a list without names, in the order of the model's trained
 * parameters: gives the list those names, under `ema.`.
 */
function withShadowParameters(source: TensorSource, wanted: string | undefined): TensorSource {
  const shadows = source.names.filter((name) => name.startsWith('ema.shadow_params.'));
  if (shadows.length === 0 || (wanted !== undefined && !wanted.startsWith('ema.'))) return source;
  const trained = source.names.filter(
    (name) => name.startsWith('model.') && !ignored.test(name) && !/all_modules\.0\.W$/.test(name),
  );
  const order = (name: string) => Number(name.slice('ema.shadow_params.'.length));
  shadows.sort((a, b) => order(a) - order(b));
  const fits =
    shadows.length === trained.length &&
    shadows.every((name, i) => String(source.shape(name)) === String(source.shape(trained[i] as string)));
  if (!fits) {
    throw new InputError(
      `${source.label}: its moving average has ${shadows.length} tensors that do not match the model's ${trained.length}; load the model itself with --prefix model.`,
    );
  }
  const stored = new Map(trained.map((name, i) => [name.replace(/^model\./, 'ema.'), shadows[i] as string]));
  // The embedding's fixed frequencies have no average.
  for (const name of source.names)
    if (/^model\..*all_modules\.0\.W$/.test(name)) stored.set(name.replace(/^model\./, 'ema.'), name);
  const named = (name: string) => stored.get(name) ?? name;
  return {
    label: source.label,
    names: [...source.names.filter((name) => !name.startsWith('ema.')), ...stored.keys()],
    shape: (name) => source.shape(named(name)),
    floats: (name) => source.floats(named(name)),
  };
}

/** Number of trained parameters. */
export function countParameters(declared: ParameterShapes): number {
  let count = 0;
  for (const { shape, statistic } of declared.values()) if (!statistic) count += sizeOf(shape);
  return count;
}

/** A tensor's elements in the layout of its file. */
export function fileLayout({ file, view, axes, shape }: Parameter, data: Float32Array): Float32Array {
  if (!axes) return data;
  const inverse = (view ?? file).map((_, axis) => axes.indexOf(axis));
  return permuted(data, shape, inverse);
}

/** A tensor's elements in the layout of the device. */
export function deviceLayout({ file, view, axes }: Parameter, data: Float32Array): Float32Array {
  return axes ? permuted(data, view ?? file, axes) : data;
}

/** The way back of `bindParameters`: all that is declared, in the names and layouts of the file, for `writeSafetensors`. */
export async function unbindParameters(
  declared: ParameterShapes,
  parameters: Parameters,
): Promise<Record<string, { shape: Shape; data: Float32Array }>> {
  const tensors: Record<string, { shape: Shape; data: Float32Array }> = {};
  for (const [name, parameter] of declared) {
    const values = await parameters.get(name).floats();
    tensors[name] = { shape: parameter.file, data: fileLayout(parameter, values) };
  }
  return tensors;
}

/** Elements of `data` in the order of `axes` (NumPy's transpose). */
export function permuted(data: Float32Array, shape: Shape, axes: readonly number[]): Float32Array {
  const strides = shape.map((_, i) => sizeOf(shape.slice(i + 1)));
  const outShape = axes.map((a) => shape[a] as number);
  const outStrides = axes.map((a) => strides[a] as number);
  const out = new Float32Array(data.length);
  const inner = outShape.at(-1) ?? 1;
  const step = outStrides.at(-1) ?? 1;
  const index = new Array<number>(axes.length).fill(0);
  let from = 0;
  for (let i = 0; i < out.length; ) {
    for (let j = 0, at = from; j < inner; j++, at += step) out[i++] = data[at] as number;
    for (let d = axes.length - 2; d >= 0; d--) {
      from += outStrides[d] as number;
      index[d]!++;
      if ((index[d] as number) < (outShape[d] as number)) break;
      from -= (outStrides[d] as number) * (outShape[d] as number);
      index[d] = 0;
    }
  }
  return out;
}
