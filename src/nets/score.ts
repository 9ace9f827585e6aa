/** Noise predictors of diffusion models, which the compared defences run: a U-Net as it is, under its own time label. */
import { tidy } from '../engine/autograd.ts';
import type { Device } from '../engine/device.ts';
import type { Tensor } from '../engine/tensor.ts';
import { type BindOptions, bindParameters, type Parameters, type TensorSource } from './parameters.ts';
import type { UNet } from './unet.ts';

export class ScoreNetwork {
  constructor(
    readonly device: Device,
    readonly unet: UNet,
    readonly parameters: Parameters,
  ) {}

  /** @throws InputError when the checkpoint does not fit the network */
  static load(device: Device, unet: UNet, source: TensorSource, options: BindOptions = {}): ScoreNetwork {
    return new ScoreNetwork(device, unet, bindParameters(device, unet.parameters, source, options));
  }

  get imageShape(): readonly [number, number, number] {
    return this.unet.imageShape;
  }

  /**
   * The network's output: the noise ε, then the variance's interpolation where it is learned.
   * @param x [N, H, W, C], an image in [-1, 1] with noise
   * @param time 999·t for continuous DDPM++ with t in [0, 1]; for improved-diffusion the step, times 1000/`diffusion_steps`
   *   where `rescale_timesteps`: 0 to 999.75 for the published ImageNet 64×64 model
   */
  predict(x: Tensor, time: number, labels?: readonly number[]): Tensor {
    const times = labels ? labels.map(() => time) : [time];
    return tidy([x], () => {
      const embedding = this.unet.embed(this.device, this.parameters, times, labels);
      return this.unet.forward(this.parameters, x, embedding);
    });
  }

  dispose(): void {
    this.parameters.dispose();
  }
}
