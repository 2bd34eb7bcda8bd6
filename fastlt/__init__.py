"""fastlt: train long-tailed image recognition fast, then rebalance its classifier."""
