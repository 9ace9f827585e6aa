/**
 * What a device can do, as plain data. Kernel choice is a pure function of this record and of shapes, so every
 * choice can be tested without a GPU.
 */
export interface Capabilities {
  /** True on software drivers: registers are cheap there, workgroup memory and barriers are slow. */
  readonly cpu: boolean;
  readonly f16: boolean;
  readonly subgroups: boolean;
  /** Exact subgroup size when the driver has only one, else 0. */
  readonly subgroupSize: number;
  readonly subgroupMatrix: boolean;
  readonly timestamps: boolean;
  readonly maxInvocations: number;
  readonly maxWorkgroupStorage: number;
  /** Bytes; the largest single tensor. */
  readonly maxBinding: number;
  readonly maxStorageBuffers: number;
  readonly maxGrid: number;
}

export function capabilitiesOf(device: GPUDevice, cpu: boolean): Capabilities {
  const info = device.adapterInfo;
  const min = info?.subgroupMinSize ?? 0;
  const max = info?.subgroupMaxSize ?? 0;
  return {
    cpu,
    f16: device.features.has('shader-f16'),
    subgroups: device.features.has('subgroups'),
    subgroupSize: min === max ? min : 0,
    subgroupMatrix: device.features.has('chromium-experimental-subgroup-matrix' as GPUFeatureName),
    timestamps: device.features.has('timestamp-query'),
    maxInvocations: device.limits.maxComputeInvocationsPerWorkgroup,
    maxWorkgroupStorage: device.limits.maxComputeWorkgroupStorageSize,
    maxBinding: Math.min(device.limits.maxStorageBufferBindingSize, device.limits.maxBufferSize),
    maxStorageBuffers: device.limits.maxStorageBuffersPerShaderStage,
    maxGrid: device.limits.maxComputeWorkgroupsPerDimension,
  };
}
