/**
 * Which GPU, and how it was chosen. In Node the adapter comes from Dawn (adapter.node.ts), in a browser from
 * `navigator.gpu`. This module is what a browser bundle sees, so it imports nothing of Node.
 */
import { AdapterError } from './errors.ts';

export type AdapterKind = 'hardware' | 'software' | 'null';
/** Where the driver comes from: this system, our own dependencies, the browser, or Dawn's null backend. */
export type AdapterSource = 'system' | 'bundled' | 'browser' | 'null';
export type Profile = 'safe' | 'fast';
/** Of the factors of products and convolutions; sums are f32. */
export type Precision = 'f32' | 'f16';

export interface OpenOptions {
  /**
   * `hardware`, `lavapipe`, `swiftshader`, `null`, or a part of an adapter's name; by default the best there is.
   * In Node the environment variable CMAP_ADAPTER stands in when this is left out.
   */
  readonly adapter?: string;
  /**
   * 'fast' leaves out Dawn's bounds checks, zero-fill and division guards, which our kernels do not rely on. Default in
   * Node the environment variable CMAP_PROFILE, else 'fast'; a browser is always 'safe'.
   */
  readonly profile?: Profile;
  /**
   * 'f16' rounds the factors of products and convolutions to half precision and runs them on the GPU's units for
   * matrices; results differ by some 1e-3. Default in Node the environment variable CMAP_PRECISION, else 'f32'.
   */
  readonly precision?: Precision;
}

/** A product of matrices that subgroups compute: [M,K]·[K,N] of `factor`, sums of `sum`. */
export interface MatrixShape {
  readonly factor: string;
  readonly sum: string;
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

/** Plain JSON, written into every result. */
export interface AdapterRecord {
  /** For people: 'NVIDIA H100 80GB HBM3', 'llvmpipe 25.0.7', 'SwiftShader (bundled)'. */
  readonly name: string;
  readonly kind: AdapterKind;
  readonly source: AdapterSource;
  readonly vendor: string;
  readonly architecture: string;
  readonly device: string;
  readonly description: string;
  /** The driver and its version where the description tells, else ''. */
  readonly driver: string;
  readonly features: readonly string[];
  readonly limits: Readonly<Record<string, number>>;
  readonly matrices: readonly MatrixShape[];
  /** One sentence: why this adapter. */
  readonly reason: string;
  readonly profile: Profile;
  readonly precision: Precision;
  readonly toggles: { readonly enabled: readonly string[]; readonly disabled: readonly string[] };
}

/** `adapter` gives one device; open again for another. `gpu` must live as long as the device does. */
export interface OpenedAdapter {
  readonly gpu: GPU;
  readonly adapter: GPUAdapter;
  readonly info: AdapterRecord;
}

/** One line of `cmap doctor`. */
export interface ListedAdapter {
  readonly name: string;
  readonly usable: boolean;
  /** Why it is usable or not. */
  readonly why: string;
  /** Null where the driver could not be opened. */
  readonly record: AdapterRecord | null;
}

/**
 * Opens an adapter: a hardware GPU, else the system's software driver, else the SwiftShader we bring along.
 * @throws AdapterError when nothing is usable, or not what was asked for; the message names what exists.
 */
export async function openAdapter(options: OpenOptions = {}): Promise<OpenedAdapter> {
  return inNode() ? (await import('./adapter.node.ts')).openNode(options) : openBrowser(options);
}

/** Every adapter there is, tried one by one (in Node each in its own process), best first. */
export async function listAdapters(options: OpenOptions = {}): Promise<ListedAdapter[]> {
  if (inNode()) return (await import('./adapter.node.ts')).listNode(options);
  try {
    const { info } = await openBrowser(options);
    return [{ name: info.name, usable: true, why: info.reason, record: info }];
  } catch (error) {
    return [{ name: 'navigator.gpu', usable: false, why: (error as Error).message, record: null }];
  }
}

/** What to install or set for a faster adapter; '' when a GPU is already in use. */
export function adviceFor(list: readonly ListedAdapter[]): string {
  const usable = (test: (record: AdapterRecord) => boolean) =>
    list.some((a) => a.usable && a.record && test(a.record));
  if (usable((r) => r.kind === 'hardware')) return '';
  if (!inNode()) return 'Turn on hardware acceleration in the browser, or use one with WebGPU.';
  const gpu =
    'A GPU needs its Vulkan driver: for NVIDIA in a container NVIDIA_DRIVER_CAPABILITIES=all, and VK_DRIVER_FILES=…/nvidia_icd.json where that file is in no vulkan/icd.d of /etc or /usr/share; elsewhere the vendor driver.';
  if (usable((r) => r.source === 'system') || process.platform !== 'linux') return gpu;
  return `For a software driver 2 to 5 times faster than SwiftShader install mesa-vulkan-drivers (25 or later; on Debian 12: apt install -t bookworm-backports mesa-vulkan-drivers). ${gpu}`;
}

const usefulFeatures = [
  'shader-f16',
  'subgroups',
  'timestamp-query',
  'chromium-experimental-subgroup-matrix',
  'subgroup-size-control',
];

const usefulLimits = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
  'maxComputeWorkgroupSizeY',
  'maxComputeWorkgroupSizeZ',
  'maxComputeWorkgroupsPerDimension',
  'maxTextureDimension2D',
  'maxImmediateSize',
];

/** Asks for all the adapter has of what the kernels can use; without it WebGPU gives its small defaults. */
export function deviceDescriptor(adapter: GPUAdapter): GPUDeviceDescriptor {
  const limits = adapter.limits as unknown as Record<string, number | undefined>;
  return {
    requiredFeatures: usefulFeatures.filter((f) => adapter.features.has(f)) as GPUFeatureName[],
    requiredLimits: Object.fromEntries(
      usefulLimits.flatMap((l) => (limits[l] === undefined ? [] : [[l, limits[l]]])),
    ),
  };
}

/** What an adapter says of itself; also run in the processes that try drivers out, so it stands alone. */
export function describe(adapter: GPUAdapter) {
  const info = adapter.info as GPUAdapterInfo | undefined;
  const limits: Record<string, number> = {};
  // Getters of the prototype: Object.keys of the object itself finds none.
  for (const key in adapter.limits) {
    const value = (adapter.limits as unknown as Record<string, unknown>)[key];
    if (typeof value === 'number') limits[key] = value;
  }
  // Not in the standard yet; Dawn's device has the list empty, its adapter not.
  const matrices = [
    ...((info as { subgroupMatrixConfigs?: Iterable<Record<string, unknown>> })?.subgroupMatrixConfigs ?? []),
  ];
  return {
    vendor: info?.vendor ?? '',
    architecture: info?.architecture ?? '',
    device: info?.device ?? '',
    description: info?.description ?? '',
    fallback: info?.isFallbackAdapter === true,
    features: [...adapter.features].sort() as string[],
    limits,
    matrices: matrices.map((c) => ({
      factor: String(c.componentType),
      sum: String(c.resultComponentType),
      m: Number(c.M),
      n: Number(c.N),
      k: Number(c.K),
    })),
  };
}

export type Description = ReturnType<typeof describe>;

/** '25.0.7' from 'llvmpipe: Mesa 25.0.7-2~bpo12+1 (LLVM 15.0.6) 0.0.1'; null when the driver is not Mesa's. */
export function mesaVersion(description: string): string | null {
  return /\bMesa (\d+(?:\.\d+)+)/.exec(description)?.[1] ?? null;
}

export const inNode = () => typeof process !== 'undefined' && Boolean(process.versions?.node);

async function openBrowser(options: OpenOptions): Promise<OpenedAdapter> {
  const gpu = globalThis.navigator?.gpu;
  if (!gpu && globalThis.isSecureContext === false)
    throw new AdapterError(
      `a browser gives WebGPU to pages from https or this machine alone, and this one is from ${globalThis.location?.origin}`,
    );
  if (!gpu)
    throw new AdapterError(
      'this browser has no WebGPU (navigator.gpu); use a current Chrome, Edge, Safari or Firefox',
    );
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
  if (!adapter)
    throw new AdapterError(
      'the browser has WebGPU but no adapter; turn on hardware acceleration and look at chrome://gpu',
    );
  const found = describe(adapter);
  const parts = [found.vendor, found.architecture, found.device].filter(Boolean).join(' ');
  const name = found.description || parts || 'GPU';
  const wanted = (options.adapter ?? '').toLowerCase();
  const text = `${name} ${parts}`.toLowerCase();
  if (wanted && wanted !== 'auto' && !(wanted === 'hardware' ? !found.fallback : text.includes(wanted)))
    throw new AdapterError(`adapter '${options.adapter}': the browser offers only '${name}'`);
  const { fallback, ...rest } = found;
  const info: AdapterRecord = {
    ...rest,
    name,
    kind: fallback ? 'software' : 'hardware',
    source: 'browser',
    driver: '',
    reason: 'The browser chose it.',
    profile: 'safe',
    precision: options.precision ?? 'f32',
    toggles: { enabled: [], disabled: [] },
  };
  return { gpu, adapter, info };
}
