/**
 * Attention (Vaswani et al. 2017). `composed` is matrix products around a softmax. The fused kernels never write the
 * matrix of scores: forward with an online softmax, backward from the saved logarithms of the sums, computing the
 * scores again (Dao et al. 2022), one kernel for the queries and one for keys and values.
 */
import { differentiable, tidy } from '../engine/autograd.ts';
import type { Capabilities } from '../engine/capabilities.ts';
import { check, formatBytes } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import { checkFloats, type Tensor } from '../engine/tensor.ts';
import forwardSource from './attention.wgsl';
import keysSource from './attention-backward-keys.wgsl';
import queriesSource from './attention-backward-queries.wgsl';
import { matmul } from './matmul.ts';
import { reshape, transpose } from './shape.ts';
import { softmax } from './softmax.ts';

/** `composed`: matrix products and a softmax. `fused`: for GPUs and for scores that would not fit a buffer. */
export type AttentionVariant = 'composed' | 'fused';

export interface AttentionOptions {
  /** Channels are [heads, d], heads slowest; 1. */
  readonly heads?: number;
  /** Factor on the scores; 1/√d. */
  readonly scale?: number;
  /** Forces a kernel, for tests and measurements. */
  readonly variant?: AttentionVariant;
}

export interface AttentionKernel {
  readonly variant: AttentionVariant;
  /** Channels a load. */
  readonly lanes: 1 | 4;
  /** Invocations that share a query, loads of each, invocations a workgroup. */
  readonly parts: number;
  readonly width: number;
  readonly threads: number;
  /** Keys in workgroup memory at a time. */
  readonly tile: number;
}

/** Which kernel attends with heads of `channels` channels. A pure function. */
export function chooseAttentionKernel(
  shape: { batch: number; heads: number; queries: number; keys: number; channels: number },
  capabilities: Pick<Capabilities, 'cpu' | 'subgroups' | 'maxBinding' | 'maxWorkgroupStorage'>,
  forced?: AttentionVariant,
): AttentionKernel {
  const { batch, heads, queries, keys, channels } = shape;
  const lanes = channels % 4 === 0 ? 4 : 1;
  const length = channels / lanes;
  const scoreBytes = 4 * batch * heads * queries * keys;
  const fits = scoreBytes <= capabilities.maxBinding;
  const variant = forced ?? (fits && (capabilities.cpu || channels > 64) ? 'composed' : 'fused');
  if (variant === 'composed') return { variant, lanes, parts: 1, width: length, threads: 0, tile: 0 };
  const { maxWorkgroupStorage, maxBinding } = capabilities;
  check(
    8 * channels <= maxWorkgroupStorage,
    () =>
      `attention: heads of ${channels} channels take ${formatBytes(8 * channels)} of workgroup memory, the device has ${formatBytes(maxWorkgroupStorage)}` +
      (fits ? '' : `, and scores take ${formatBytes(scoreBytes)} of a buffer of ${formatBytes(maxBinding)}`) +
      '; use more heads or a smaller batch',
  );
  // Four invocations a query where they can add by shuffling: a quarter of the registers, four times the parallelism.
  const parts = capabilities.subgroups ? ([4, 2].find((p) => length % p === 0 && length / p >= 2) ?? 1) : 1;
  // Two tiles of this many keys take 8 KiB at most; one key each for the widest heads.
  const tile = [16, 8, 4, 2].find((t) => 2 * t * channels * 4 <= 8192) ?? 1;
  return { variant, lanes, parts, width: length / parts, threads: 64, tile };
}

/**
 * softmax(scale · q kᵀ) v within each head: `torch.nn.functional.scaled_dot_product_attention` on [N,T,heads,d].
 * @param q [N,T,heads·d]
 * @param k [N,S,heads·d]
 * @param v [N,S,heads·d]
 * @returns [N,T,heads·d]
 * @throws ShapeError when shapes differ or channels do not divide into heads
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  const { heads = 1 } = options;
  checkFloats('attention', { q, k, v });
  check(q.rank === 3 && q.size > 0, () => `attention: q [${q.shape}] is not [N,T,D]`);
  const [batch, queries, all] = q.shape as [number, number, number];
  check(
    k.rank === 3 && k.shape[0] === batch && k.shape[2] === all && k.size > 0,
    () => `attention: k [${k.shape}] is not [${batch},S,${all}], as q [${q.shape}] asks`,
  );
  check(
    String(v.shape) === String(k.shape),
    () => `attention: v [${v.shape}] is not of the shape of k [${k.shape}]`,
  );
  check(
    Number.isInteger(heads) && heads >= 1 && all % heads === 0,
    () => `attention: ${all} channels do not divide into ${heads} heads`,
  );
  const keys = k.shape[1] as number;
  const channels = all / heads;
  const { scale = 1 / Math.sqrt(channels) } = options;
  const shape = { batch, heads, queries, keys, channels };
  const choice = chooseAttentionKernel(shape, q.device.capabilities, options.variant);
  return choice.variant === 'composed'
    ? tidy([q, k, v], () => composed(q, k, v, heads, scale))
    : fused(q, k, v, shape, scale, choice);
}

function composed(q: Tensor, k: Tensor, v: Tensor, heads: number, scale: number): Tensor {
  const [batch, queries, all] = q.shape as [number, number, number];
  const split = (x: Tensor) => {
    const t = x.shape[1] as number;
    if (heads === 1) return x;
    return reshape(transpose(reshape(x, [batch, t, heads, all / heads]), [0, 2, 1, 3]), [
      batch * heads,
      t,
      all / heads,
    ]);
  };
  const weights = softmax(matmul(split(q), split(k), { transposeB: true, scale }));
  const y = matmul(weights, split(v));
  if (heads === 1) return y;
  return reshape(transpose(reshape(y, [batch, heads, queries, all / heads]), [0, 2, 1, 3]), q.shape);
}

function fused(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  shape: { batch: number; heads: number; queries: number; keys: number; channels: number },
  scale: number,
  choice: AttentionKernel,
): Tensor {
  const { device } = q;
  const { batch, heads, queries, keys, channels } = shape;
  const { lanes, parts, width, threads, tile } = choice;
  const constants = {
    T: lanes === 4 ? 'vec4<f32>' : 'f32',
    LANES: lanes,
    D: channels / lanes,
    PARTS: parts,
    WIDTH: width,
    THREADS: threads,
    KEYS: tile,
  };
  const launch = (
    name: string,
    source: string,
    tensors: Record<string, Tensor>,
    rows: number,
    products: number,
  ) => {
    const tiles = Math.ceil(rows / (threads / parts));
    const count = batch * heads * tiles;
    device.run(
      kernel(name, `${source}\n${join(parts)}`, constants),
      tensors,
      { queries, keys, heads, tiles, count, scale },
      linearGrid(count, 1),
      { flops: 2 * products * batch * heads * queries * keys * channels },
    );
  };
  const o = device.empty(q.shape);
  const logs = device.empty([batch, heads, queries]);
  launch('attention', forwardSource, { q, k, v, o, logs }, queries, 2);
  // With p = exp(scale·q k − logs) and delta = dy·o, a number a query:
  //     dq = scale·Σ_keys p (dy·v − delta) k,  dk = scale·Σ_queries p (dy·v − delta) q,  dv = Σ_queries p dy.
  differentiable('attention', [q, k, v], o, (dy, needs) => {
    const dq = device.empty(q.shape);
    const norms = device.empty([batch, heads, queries, 2]);
    launch('attention-backward-queries', queriesSource, { q, k, v, o, logs, dy, dq, norms }, queries, 3);
    if (!needs[1] && !needs[2]) return [dq, null, null];
    const dk = device.empty(k.shape);
    const dv = device.empty(v.shape);
    launch('attention-backward-keys', keysSource, { q, k, v, norms, dy, dk, dv }, keys, 4);
    return [dq, dk, dv];
  });
  if (!o.node) logs.dispose();
  return o;
}

/** WGSL of the sum over 1, 2 or 4 neighbouring invocations; uniform, as all loops around it are. */
function join(parts: number): string {
  if (parts === 1) return 'fn join(x: f32) -> f32 { return x; }';
  const pair = 'let y = x + subgroupShuffleXor(x, 1u);';
  const body = parts === 2 ? `${pair} return y;` : `${pair} return y + subgroupShuffleXor(y, 2u);`;
  return `enable subgroups;\ndiagnostic(off, subgroup_uniformity);\nfn join(x: f32) -> f32 { ${body} }`;
}
