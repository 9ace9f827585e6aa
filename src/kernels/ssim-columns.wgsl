// From row moments to the window's moments, by the law of total variance: with S = s_row s_col the weight inside,
//   mean = sum_i w m_i / s_col,   mu = S mean  (= E[x], zeros outside counted),
//   E[x^2] - mu^2 = sum_i w v_i + s_row sum_i w (m_i - mean)^2 + S (1 - S) mean^2,
// the covariance alike; every term of the variance is >= 0 and the last is 0 away from the border.
struct Moments { mu_x: f32, mu_y: f32, var_x: f32, cov: f32 }

fn moments(n: u32, row: u32, j: u32, c: u32) -> Moments {
  let line = params.width * params.channels;
  let base = n * params.height * line + j * params.channels + c;
  let here = rows[base + row * line];
  var mean_x = 0.0;
  var mean_y = 0.0;
  var within = 0.0;
  var within_cov = 0.0;
  for (var t = 0u; t < 11u; t++) {
    let tap = tap_at(t, row, params.height);
    let r = rows[base + tap.at * line];
    mean_x += tap.weight * (r.x - here.x);
    within += tap.weight * r.y;
    within_cov += tap.weight * r.z;
    mean_y += tap.weight * (r.w - here.w);
  }
  let missing_row = missing(j, params.width);
  let missing_column = missing(row, params.height);
  let scale = 1.0 / (1.0 - missing_column);
  mean_x = here.x + mean_x * scale;
  mean_y = here.w + mean_y * scale;
  var between = 0.0;
  var between_cov = 0.0;
  for (var t = 0u; t < 11u; t++) {
    let tap = tap_at(t, row, params.height);
    let r = rows[base + tap.at * line];
    let weighted = tap.weight * (r.x - mean_x);
    between += weighted * (r.x - mean_x);
    between_cov += weighted * (r.w - mean_y);
  }
  let outside = missing_row + missing_column - missing_row * missing_column;
  let weight = 1.0 - outside;
  let border = weight * outside * mean_x;
  return Moments(
    weight * mean_x,
    weight * mean_y,
    within + (1.0 - missing_row) * between + border * mean_x,
    within_cov + (1.0 - missing_row) * between_cov + border * mean_y,
  );
}
