/** The shipped classifier and its test images, for the tests of attacks. */
import { loadFashionMnist } from '../../src/data/fashion-mnist.ts';
import { loadClassifier } from '../../src/models.ts';
import { testDevice } from '../support.ts';

/** @param count the first test images */
export async function fashion(count: number) {
  const device = await testDevice();
  const { net } = loadClassifier(device);
  const { images, labels, shape } = loadFashionMnist({ count });
  const x = device.tensor(images, shape);
  const size = images.length / count;
  return {
    device,
    net,
    x,
    labels: [...labels],
    images,
    size,
    dispose: () => {
      x.dispose();
      net.dispose();
    },
  };
}

/** Fails unless every image is in [0, 1] and within eps of its original, in real numbers. */
export function withinBall(
  adversarial: Float32Array,
  clean: Float32Array,
  size: number,
  norm: 'Linf' | 'L2',
  eps: number,
): void {
  for (let i = 0; i < adversarial.length / size; i++) {
    let length = 0;
    for (let k = i * size; k < (i + 1) * size; k++) {
      const v = adversarial[k] as number;
      if (!(v >= 0 && v <= 1)) throw new Error(`image ${i} holds ${v}`);
      const d = Math.abs(v - (clean[k] as number));
      length = norm === 'Linf' ? Math.max(length, d) : length + d * d;
    }
    if (norm === 'L2') length = Math.sqrt(length);
    if (length > eps) throw new Error(`image ${i} is ${length} from its original, more than ${eps}`);
  }
}
