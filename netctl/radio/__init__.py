"""From positions to links: path loss, SNR, rate tables, shared airtime, handover."""
