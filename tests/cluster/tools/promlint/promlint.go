// Promlint does what `promtool check metrics` does, and nothing else: cmd/promtool of Prometheus 3.15
// calls promlint.New(os.Stdin).Lint() of this very module, prints every finding and ends with 3 if
// there is one, with 1 if the text can not be parsed. The whole promtool brings service discovery for
// every cloud along, many minutes of building, for these lines.
package main

import (
	"fmt"
	"os"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

func main() {
	problems, err := promlint.New(os.Stdin).Lint()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error while linting:", err)
		os.Exit(1)
	}
	for _, problem := range problems {
		fmt.Fprintln(os.Stderr, problem.Metric, problem.Text)
	}
	if len(problems) > 0 {
		os.Exit(3)
	}
}
