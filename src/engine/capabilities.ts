/**
 * What a device can do, as plain data. Kernel choice is a pure function of this record and of shapes, so every
 * choice can be tested without a GPU.
 */
import type { AdapterRecord } from './adapter.ts';
import { texelRowBytes } from './texels.ts';

export interface Capabilities {
  /** True on software drivers: registers are cheap there, workgroup memory and barriers are slow. */
  readonly cpu: boolean;
  /** Whether products read texels faster than buffers: measured, on lavapipe alone. */
  readonly texels: boolean;
  /** Bytes; the largest tensor in texels. */
  readonly maxTexels: number;
  readonly subgroups: boolean;
  /** Exact subgroup size when the driver has only one, else 0. */
  readonly subgroupSize: number;
  /** The subgroup size that a kernel may ask for where the driver has several; 0 where it has one, or lets none be asked for. */
  readonly pinnedSubgroup: number;
  /**
   * Edge of the square matrices f16 · f16 -> f32 that products may use: 8 or 16; 0 where the device has none, where its
   * subgroups have no one size and none can be asked for, and unless precision f16 was asked for.
   */
  readonly matrix: 0 | 8 | 16;
  readonly timestamps: boolean;
  readonly maxInvocations: number;
  readonly maxWorkgroupStorage: number;
  /** Bytes; the largest single tensor. */
  readonly maxBinding: number;
  readonly maxGrid: number;
}

export function capabilitiesOf(device: GPUDevice, adapter: AdapterRecord): Capabilities {
  const info = device.adapterInfo;
  const min = info?.subgroupMinSize ?? 0;
  const max = info?.subgroupMaxSize ?? 0;
  const pinned = min < max && device.features.has('subgroup-size-control' as GPUFeatureName);
  // Of the sizes of AMD's subgroups, 32 and 64, the one for which its units for matrices are made.
  const pinnedSubgroup = pinned ? Math.min(Math.max(32, min), max) : 0;
  return {
    cpu: adapter.kind === 'software',
    texels: adapter.kind === 'software' && adapter.device.startsWith('llvmpipe'),
    maxTexels: texelRowBytes * device.limits.maxTextureDimension2D,
    subgroups: device.features.has('subgroups'),
    subgroupSize: min === max ? min : 0,
    pinnedSubgroup,
    matrix: adapter.precision === 'f16' && (min === max || pinned) ? matrixEdge(device, adapter) : 0,
    timestamps: device.features.has('timestamp-query'),
    maxInvocations: device.limits.maxComputeInvocationsPerWorkgroup,
    maxWorkgroupStorage: device.limits.maxComputeWorkgroupStorageSize,
    maxBinding: Math.min(device.limits.maxStorageBufferBindingSize, device.limits.maxBufferSize),
    maxGrid: device.limits.maxComputeWorkgroupsPerDimension,
  };
}

function matrixEdge(device: GPUDevice, { matrices }: AdapterRecord): 0 | 8 | 16 {
  const wanted = ['chromium-experimental-subgroup-matrix', 'shader-f16', 'subgroups'];
  if (!wanted.every((feature) => device.features.has(feature as GPUFeatureName))) return 0;
  const has = (edge: number) =>
    matrices.some(
      ({ factor, sum, m, n, k }) =>
        factor === 'f16' && sum === 'f32' && m === edge && n === edge && k === edge,
    );
  return has(16) ? 16 : has(8) ? 8 : 0;
}
