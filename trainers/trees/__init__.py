"""Trees, linear models and nearest flows: columns of rows, fits, arrays, kernels and exports."""
