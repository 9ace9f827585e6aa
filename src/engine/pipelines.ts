import { KernelError } from './errors.ts';
import { type Kernel, numbered } from './kernel.ts';
import { waitFor } from './wait.ts';

export interface Pipeline {
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
}

/** Pipelines by kernel. `get` compiles at once; `warm` compiles many beforehand and reports progress. */
export class Pipelines {
  readonly #made = new Map<Kernel, Pipeline>();
  readonly #layouts = new Map<string, GPUBindGroupLayout>();
  /** Milliseconds spent waiting for compilation. */
  compileMs = 0;

  constructor(
    readonly device: GPUDevice,
    readonly onError: (error: Error) => void,
  ) {}

  get count(): number {
    return this.#made.size;
  }

  get(k: Kernel): Pipeline {
    const known = this.#made.get(k);
    if (known) return known;
    const start = performance.now();
    this.device.pushErrorScope('validation');
    const { module, bind, layout } = this.#parts(k);
    const pipeline = this.device.createComputePipeline({
      label: k.name,
      layout,
      compute: { module, entryPoint: 'main' },
    });
    this.device.popErrorScope().then((error) => {
      if (!error) return;
      this.#made.delete(k); // so that the next use fails again instead of computing nothing
      this.onError(kernelError(k, error.message));
    }, this.onError);
    this.compileMs += performance.now() - start;
    return this.#keep(k, pipeline, bind);
  }

  /** @param onProgress called with (done, total) */
  async warm(kernels: Iterable<Kernel>, onProgress?: (done: number, total: number) => void): Promise<void> {
    const missing = [...new Set(kernels)].filter((k) => !this.#made.has(k));
    const start = performance.now();
    let done = 0;
    let next = 0;
    const worker = async () => {
      for (let k = missing[next++]; k; k = missing[next++]) {
        this.device.pushErrorScope('validation');
        const { module, bind, layout } = this.#parts(k);
        const refused = this.device.popErrorScope();
        try {
          const pipeline = await this.device.createComputePipelineAsync({
            label: k.name,
            layout,
            compute: { module, entryPoint: 'main' },
          });
          this.#keep(k, pipeline, bind);
        } catch (error) {
          // The shader's own error says more than the pipeline's.
          throw kernelError(k, (await refused)?.message ?? (error as Error).message);
        }
        onProgress?.(++done, missing.length);
      }
    };
    await waitFor(Promise.all(Array.from({ length: 4 }, worker)));
    this.compileMs += performance.now() - start;
  }

  #keep(k: Kernel, pipeline: GPUComputePipeline, layout: GPUBindGroupLayout): Pipeline {
    const entry = { pipeline, layout };
    this.#made.set(k, entry);
    return entry;
  }

  #parts(k: Kernel) {
    const key = `${k.bindings.map((b) => `${b.index}${b.texels ? 't' : b.writable ? 'w' : 'r'}`)} ${k.paramsIndex}`;
    let bind = this.#layouts.get(key);
    if (!bind) {
      const entries: GPUBindGroupLayoutEntry[] = k.bindings.map((b) => ({
        binding: b.index,
        visibility: 4, // GPUShaderStage.COMPUTE; the global does not exist in Node
        ...(b.texels
          ? { storageTexture: { access: 'read-only', format: 'rgba32float' } }
          : { buffer: { type: b.writable ? 'storage' : 'read-only-storage' } }),
      }));
      if (k.paramsIndex >= 0)
        entries.push({ binding: k.paramsIndex, visibility: 4, buffer: { type: 'uniform' } });
      bind = this.device.createBindGroupLayout({ label: key, entries });
      this.#layouts.set(key, bind);
    }
    const module = this.device.createShaderModule({ label: k.name, code: k.code });
    // One a kernel: wgpu to 29.0 checks a dispatch against the binding sizes of the last pipeline of another layout
    // (gfx-rs/wgpu#7359).
    const layout = this.device.createPipelineLayout({ label: k.name, bindGroupLayouts: [bind] });
    return { module, bind, layout };
  }
}

/** Dawn's message is a page with the source; the first line says what and where. */
function kernelError(k: Kernel, message: string): KernelError {
  const found = /:(\d+):\d+ error: (.*)/.exec(message);
  if (!found) return new KernelError(`kernel ${k.name}: ${message.split('\n')[0]}`, numbered(k.code));
  const line = Number(found[1]);
  const text = k.code.split('\n')[line - 1]?.trim();
  return new KernelError(`kernel ${k.name}: line ${line}: ${found[2]}: ${text}`, numbered(k.code));
}
