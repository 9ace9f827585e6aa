import type { Node } from './autograd.ts';
import type { Device } from './device.ts';
import { CmapError, check, ShapeError } from './errors.ts';

export type DType = 'f32' | 'f16' | 'u32' | 'i32';
export type Shape = readonly number[];
export type HostData = Float32Array | Uint32Array | Int32Array | Uint16Array;
/** What tensors are made of. */
export type Numbers =
  | HostData
  | readonly number[]
  | Float64Array
  | Uint8Array
  | Uint8ClampedArray
  | Int8Array
  | Int16Array;

export const bytesPer: Readonly<Record<DType, number>> = { f32: 4, f16: 2, u32: 4, i32: 4 };

export function sizeOf(shape: Shape): number {
  let n = 1;
  for (const d of shape) n *= d;
  return n;
}

/** @throws ShapeError naming the first that is not f32; one that is not given passes */
export function checkFloats(name: string, tensors: Readonly<Record<string, Tensor | undefined>>): void {
  for (const [key, tensor] of Object.entries(tensors)) {
    if (tensor && tensor.dtype !== 'f32')
      throw new ShapeError(`${name}: ${key} [${tensor.shape}] is ${tensor.dtype}, not f32`);
  }
}

/** A buffer, or texels: a texture whose texels hold four elements each. */
export type Memory = GPUBuffer | GPUTexture;

export const isBuffer = (memory: Memory): memory is GPUBuffer => 'size' in memory;

/**
 * The memory behind one or more tensors. Eager: pooled. While a Program is recorded: none yet, the planner gives it some.
 */
export class Storage {
  memory: Memory | null;
  references = 1;
  /** How often it was written: a gradient of what it held before can no longer be taken. */
  version = 0;
  /** The submission that wrote it last, 0 for the host; and why what it holds is not what was computed. */
  written = 0;
  failure: Error | null = null;
  constructor(
    readonly bytes: number,
    memory: Memory | null,
    /** Whether its memory is a texture. */
    readonly texels = false,
  ) {
    this.memory = memory;
  }
}

/** The node of a tensor that was differentiated and disposed: a gradient cannot pass it. */
export const gone: Node = { name: 'disposed', inputs: [], backward: () => [] };

/**
 * A dense array on a device, row-major. Images and activations are NHWC, convolution kernels HWIO; files keep
 * their own layout (NCHW, OIHW) and are converted where they are read.
 *
 * A tensor lives until `dispose()`, or until the `scope` that made it ends. Values are written once: only
 * optimisers and `write` change a tensor in place.
 */
export class Tensor {
  /** How it was computed, while gradients are being recorded. */
  node: Node | null = null;
  #disposed = false;

  constructor(
    readonly device: Device,
    readonly shape: Shape,
    readonly dtype: DType,
    readonly storage: Storage,
  ) {}

  /** Number of elements. */
  get size(): number {
    return sizeOf(this.shape);
  }

  get rank(): number {
    return this.shape.length;
  }

  get bytes(): number {
    return this.size * bytesPer[this.dtype];
  }

  get disposed(): boolean {
    return this.#disposed;
  }

  /** Fails when the memory was given back; every use on the device goes through this. */
  live(): Storage {
    if (this.#disposed)
      throw new CmapError(`tensor [${this.shape}] was disposed; return it from its scope to keep it`);
    return this.storage;
  }

  /** The elements, copied to the host. f16 comes back as its 16-bit patterns. */
  read(): Promise<HostData> {
    return this.device.read(this);
  }

  /** The elements of an f32 tensor, copied to the host. */
  async floats(): Promise<Float32Array> {
    check(this.dtype === 'f32', () => `floats: tensor is ${this.dtype}, not f32`);
    return (await this.read()) as Float32Array;
  }

  /** Replaces the elements from the host. Ordered with the device's other work. */
  write(data: Numbers): void {
    this.device.write(this, data);
  }

  /** Another tensor over the same memory. */
  alias(shape: Shape = this.shape): Tensor {
    check(
      sizeOf(shape) === this.size,
      () => `reshape: [${this.shape}] has ${this.size} elements, [${shape}] has ${sizeOf(shape)}`,
    );
    this.live().references++;
    return this.device.adopt(new Tensor(this.device, shape, this.dtype, this.storage));
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    if (this.node) this.node = gone;
    this.device.release(this.storage);
  }
}
